"""Run every client's script against running servers: `python -m tests.clients` (see README.md beside this file)."""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.clients.deliveries import signed_webhook
from tests.clients.guide import PAGE, Example, examples
from tests.clients.server import Address, empty_database, running

HERE = Path(__file__).parent
PYTHON = {"sdk_client.py": "agents", "langchain_chat.py": "langchain_openai"}
"""Python scripts and the module that each needs."""
NODE = {
    "openai_node.mjs": ("openai", "zod"),
    "ai_sdk.mjs": ("ai",),
    "ag_ui.mjs": ("@ag-ui/client",),
}
"""Node scripts and the packages that each needs."""
GUIDE = PAGE.name
"""The name under which the examples of the guide are run."""
DEMO_MODEL = ("ai_sdk.mjs", "ag_ui.mjs", GUIDE)
"""What expects the answers of the demo model; the others expect those of the fake OpenAI."""

SERVERS: Final = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Program:
    """Something that is run as a process of its own."""

    title: str
    command: Sequence[str]
    is_good: Callable[[str], bool]
    """Judges what it has said."""


Programs = Callable[[Address, Path], Sequence[Program]]
"""Gives the programs for a server, and a folder for files."""


@dataclass(frozen=True)
class Places:
    """Where interpreters and packages are."""

    python: str
    node: Path | None

    def python_with(self, module: str) -> str | None:
        """Return an interpreter that has a module, or None."""
        for interpreter in (sys.executable, self.python):
            if not subprocess.run([interpreter, "-c", f"import {module}"], capture_output=True).returncode:
                return interpreter
        return None

    def node_with(self, packages: Sequence[str]) -> str | None:
        """Return Node, where its packages are; the one that is among them comes first."""
        if self.node is None or not all((self.node / "node_modules" / package).is_dir() for package in packages):
            return None
        return shutil.which("node", path=self.node / "node_modules" / ".bin") or shutil.which("node")


def main() -> int:
    """Run what can be run here on each kind of database; 1 when a script failed or none was run."""
    names = [*PYTHON, *NODE, GUIDE]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", help=f"only these of {', '.join(names)}")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has what this one lacks")
    parser.add_argument("--node", type=Path, help="folder whose node_modules has the packages of the Node ones")
    parser.add_argument("--database", choices=SERVERS, action="append", help="instead of both")
    options = parser.parse_args()
    if unknown := set(options.scripts) - set(names):
        parser.error(f"there is no script {min(unknown)}")
    if shutil.which(options.python) is None:
        parser.error(
            f"--python {options.python} is no program; name an interpreter, as FOLDER/bin/python of an environment"
        )
    places = Places(options.python, options.node)
    programs: dict[str, Programs] = {}
    for name in options.scripts or names:
        if name == GUIDE:
            programs[name] = _guide(places)
        elif command := _command(name, places):
            program = Program(name, command, lambda output: _passed(output) > 0)
            programs[name] = lambda _address, _folder, program=program: [program]
        else:
            print(f"not run: {name}, which needs {PYTHON.get(name) or ' and '.join(NODE[name])}")
    failed = not programs
    for database in options.database or SERVERS:
        for demo in (False, True):
            chosen = {name: made for name, made in programs.items() if (name in DEMO_MODEL) == demo}
            if chosen:
                failed |= not _run(chosen, database, demo=demo)
    return int(failed)


def _command(script: str, places: Places) -> list[str] | None:
    """Return how a script is run, or None where what it needs is not installed."""
    if script in PYTHON:
        interpreter = places.python_with(PYTHON[script])
        return interpreter and [interpreter, str(HERE / script)]
    node = places.node_with(NODE[script])
    # Node looks for packages beside the script.
    return node and places.node and [node, str(shutil.copy(HERE / script, places.node))]


def _guide(places: Places) -> Programs:
    """Return what runs the examples of the guide, each as a program of its own."""
    ready: list[tuple[Example, str]] = []
    for example in examples():
        match example.language:
            case "python":
                module = "langchain_openai" if "langchain_openai" in example.code else "agents"
                program = places.python_with(module)
            case "js":
                program = places.node_with([package for packages in NODE.values() for package in packages])
            case _:
                program = shutil.which("curl") and shutil.which("sh")
        if program:
            ready.append((example, program))
        else:
            print(f"not run: {GUIDE}, {example.title}: what it needs is not installed")

    def programs(address: Address, folder: Path) -> list[Program]:
        made: list[Program] = []
        for number, (example, program) in enumerate(ready):
            kind = {"js": "mjs", "python": "py"}.get(example.language, example.language)
            beside = places.node if example.language == "js" and places.node else folder
            file = beside / f"example-{number}.{kind}"
            file.write_text(example.at(address))
            made.append(Program(f"{GUIDE}, {example.title}", [program, str(file)], example.is_answered_by))
        return made

    return programs


def _run(chosen: dict[str, Programs], database: Literal["sqlite", "postgresql"], *, demo: bool) -> bool:
    """Run programs against new servers; gives whether all of them passed."""
    passed = True
    with tempfile.TemporaryDirectory(prefix="clients-") as name, empty_database(database) as url:
        folder = Path(name)
        with running(folder, database_url=url, processes=2 if url else 1, upstream=not demo) as address:
            for program in [one for programs in chosen.values() for one in programs(address, folder)]:
                done = _checked(program.command, address)
                kind = f"{database}, {'two servers' if url else 'one server'}"
                checks = f", {_passed(done.stdout)} checks" if _passed(done.stdout) else ""
                good = not done.returncode and program.is_good(done.stdout)
                print(f"{'passed' if good else 'FAILED'}: {program.title} ({kind}){checks}", flush=True)
                if not good:
                    passed = False
                    print(done.stdout, done.stderr, _errors(folder), sep="\n")
    return passed


def _checked(command: Sequence[str], address: Address) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "BASE_URL": address.base_url,
        "API_KEY": address.api_key,
        "ADMIN_KEY": address.admin_key,
        "SIGNED_WEBHOOK": asyncio.run(signed_webhook()),
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
    environment.pop("PYTHONPATH", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def _passed(output: str) -> int:
    return sum(line.startswith("ok") for line in output.splitlines())


def _errors(folder: Path) -> str:
    lines = [line for log in sorted(folder.glob("server-*.log")) for line in log.read_text().splitlines()]
    return "\n".join(line for line in lines if '"level": "error"' in line)[-5_000:]


if __name__ == "__main__":
    sys.exit(main())
