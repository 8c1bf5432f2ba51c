"""The alembic command in a source checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.migrations.commands import ALL, HEAD, TABLES

ROOT = Path(__file__).parents[2]


def _alembic(*arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    if url is not None:
        environment["DATABASE_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_url_comes_from_the_environment(database_url: str) -> None:
    done = _alembic("upgrade", "head", url=database_url)
    assert done.returncode == 0, done.stderr
    assert HEAD in _alembic("current", url=database_url).stdout
    checked = _alembic("check", url=database_url)
    assert (checked.returncode, checked.stdout) == (0, "No new upgrade operations detected.\n"), checked.stderr


def test_the_url_on_the_command_line_comes_first(sqlite_url: str) -> None:
    done = _alembic("-x", f"url={sqlite_url}", "upgrade", "head", url="postgresql://nowhere.invalid/x")
    assert done.returncode == 0, done.stderr
    assert HEAD in _alembic("current", url=sqlite_url).stdout


def test_without_a_url_it_names_the_setting() -> None:
    done = _alembic("upgrade", "head")
    assert done.returncode != 0
    assert "DATABASE_URL is not set" in done.stderr


def test_the_statements_can_be_printed_for_postgresql() -> None:
    done = _alembic("upgrade", "head", "--sql", url="postgresql://nowhere.invalid/x")
    assert done.returncode == 0, done.stderr
    ours = set().union(*TABLES.values())
    assert done.stdout.count("CREATE TABLE ") == len(ours | {"alembic_version"})
    # One revision builds an index outside of its transaction.
    assert done.stdout.count("COMMIT;") == len(ALL) + 1


@pytest.mark.parametrize("secret", ["password", "://"])
def test_the_ini_file_holds_no_url(secret: str) -> None:
    assert secret not in (ROOT / "alembic.ini").read_text("utf-8")
