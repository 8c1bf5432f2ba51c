"""Run every client's script against running servers: `python -m tests.clients` (see README.md beside this file)."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

from tests.clients.server import Address, empty_database, running

HERE = Path(__file__).parent
PYTHON = ("sdk_client.py", "langchain_chat.py")
MODULES = {"sdk_client.py": "agents", "langchain_chat.py": "langchain_openai"}
PACKAGES = {
    "ai_sdk.mjs": "ai",
    "ag_ui.mjs": "@ag-ui/client",
}
DEMO_MODEL = ("ai_sdk.mjs", "ag_ui.mjs")
"""Scripts that expect the answers of the demo model; the others expect those of the fake OpenAI."""

SERVERS: Final = ("sqlite", "postgresql")


def main() -> int:
    """Run what can be run here on each kind of database; 1 when a script failed or none was run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", help="only these, such as sdk_client.py")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has what this one lacks")
    parser.add_argument("--node", type=Path, help="folder whose node_modules has the packages of the Node ones")
    parser.add_argument("--database", choices=SERVERS, action="append", help="instead of both")
    options = parser.parse_args()
    wanted = options.scripts or [script for script in (*PYTHON, *PACKAGES) if (HERE / script).is_file()]
    commands: dict[str, list[str]] = {}
    for script in wanted:
        if not (HERE / script).is_file():
            parser.error(f"there is no script {script}")
        if command := _command(script, options.python, options.node):
            commands[script] = command
        else:
            print(f"not run: {script}, its package {MODULES.get(script) or PACKAGES[script]} is not installed")
    failed = not commands
    for database in options.database or SERVERS:
        for demo in (False, True):
            chosen = {script: command for script, command in commands.items() if (script in DEMO_MODEL) == demo}
            if chosen:
                failed |= not _run(chosen, database, demo=demo)
    return int(failed)


def _command(script: str, python: str, node: Path | None) -> list[str] | None:
    """Return how a script is run, or None where what it needs is not installed."""
    if script in MODULES:
        for interpreter in (sys.executable, python):
            if not subprocess.run([interpreter, "-c", f"import {MODULES[script]}"], capture_output=True).returncode:
                return [interpreter, str(HERE / script)]
        return None
    if node is None or not (node / "node_modules" / PACKAGES[script]).is_dir():
        return None
    # Node looks for packages beside the script.
    return ["node", str(shutil.copy(HERE / script, node))]


def _run(commands: dict[str, list[str]], database: Literal["sqlite", "postgresql"], *, demo: bool) -> bool:
    """Run scripts against new servers; gives whether all of them passed."""
    passed = True
    with tempfile.TemporaryDirectory(prefix="clients-") as name, empty_database(database) as url:
        folder = Path(name)
        with running(folder, database_url=url, processes=2 if url else 1, upstream=not demo) as address:
            for script, command in commands.items():
                done = _checked(command, address)
                kind = f"{database}, {'two servers' if url else 'one server'}"
                print(f"{'passed' if done.returncode == 0 else 'FAILED'}: {script} ({kind}), {_passed(done)} checks")
                if done.returncode:
                    passed = False
                    print(done.stdout, done.stderr, _errors(folder), sep="\n")
    return passed


def _checked(command: list[str], address: Address) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "BASE_URL": address.base_url, "API_KEY": address.api_key}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def _passed(done: "subprocess.CompletedProcess[str]") -> int:
    return sum(line.startswith("ok") for line in done.stdout.splitlines())


def _errors(folder: Path) -> str:
    lines = [line for log in sorted(folder.glob("server-*.log")) for line in log.read_text().splitlines()]
    return "\n".join(line for line in lines if '"level": "error"' in line)[-5_000:]


if __name__ == "__main__":
    sys.exit(main())
