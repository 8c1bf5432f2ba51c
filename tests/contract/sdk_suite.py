"""Run the SDK's own session tests against `DurableSession`, from an unpacked source tree of the SDK.

    python tests/contract/sdk_suite.py path/to/openai_agents-0.24.0 [pytest arguments]

The SDK's wheel comes without its tests; its source distribution has them. They are copied to a temporary folder and
run there by another pytest, with this file as a plugin: wherever a test module imported `SQLAlchemySession`, it finds
`DurableSession` under the SDK's default table names.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SUITES = ("tests/extensions/memory/test_sqlalchemy_session.py", "tests/memory/test_sqlalchemy_compaction.py")
REPOSITORY = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the collected modules our class; the SDK's own module keeps its own, which ours is built upon."""
    from agents.extensions.memory import SQLAlchemySession

    from app.infrastructure.providers.openai.durable_session import DurableSession

    class SdkNamedSession(DurableSession):
        def __init__(self, session_id, *, sessions_table="agent_sessions", messages_table="agent_messages", **kwargs):
            super().__init__(session_id, sessions_table=sessions_table, messages_table=messages_table, **kwargs)

    replaced = set()
    for module in {item.getparent(pytest.Module).obj for item in items}:
        if getattr(module, "SQLAlchemySession", None) is SQLAlchemySession:
            module.SQLAlchemySession = SdkNamedSession
            replaced.add(module.__name__)
    assert len(replaced) == len({item.path for item in items}), f"only {replaced} use the class that is to be tested"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="an unpacked source tree of openai-agents, the installed version")
    options, pytest_arguments = parser.parse_known_args()
    missing = [suite for suite in SUITES if not (options.source / suite).is_file()]
    if missing:
        parser.error(f"{options.source} has no {' and no '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="sdk-suite-") as folder:
        shutil.copytree(options.source / "tests", Path(folder) / "tests")
        shutil.copy(options.source / "pyproject.toml", folder)
        # The folder comes first: `tests` must be the SDK's there, and `app` ours.
        path = os.pathsep.join([folder, str(Path(__file__).parent), str(REPOSITORY)])
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "sdk_suite",
            "-p",
            "no:cacheprovider",
            *SUITES,
            *pytest_arguments,
        ]
        return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
