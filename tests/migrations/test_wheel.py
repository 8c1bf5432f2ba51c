"""The migrations travel inside the wheel, and an installed package finds them."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = "app/infrastructure/persistence/migrations"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that it needs no README or licence and leaves nothing behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("app", "migrations", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", source)
    (source / "README.md").write_text("x")
    (source / "LICENSE").write_text("x")
    (source / "migrations" / "__pycache__").mkdir()
    (source / "migrations" / "__pycache__" / "env.cpython-311.pyc").write_bytes(b"x")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (made,) = (source / "out").glob("*.whl")
    return made


def test_it_holds_the_migrations_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert f"{INSIDE}/versions/6724700351b6_add_sdk_session_columns.py" in names
    assert f"{INSIDE}/env.py" in names
    assert f"{INSIDE}/script.py.mako" in names
    assert not [name for name in names if name.startswith(("tests", "migrations")) or name.endswith(".pyc")]


def test_an_installed_package_migrates_with_its_own_folder(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = (
        "import asyncio, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from app.infrastructure.persistence import engine, schema\n"
        "made = engine.build_engine('sqlite:///test.db')\n"
        "async def main():\n"
        "    await schema.ensure(made)\n"
        "    print((await schema.check(made)).up_to_date)\n"
        "    await made.dispose()\n"
        "asyncio.run(main())\n"
        "print(schema.migrations_path())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(installed)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True", str((installed / INSIDE).resolve())]
