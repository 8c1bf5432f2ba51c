"""The program as its users start it, and the same in this process, where a second of imports is already paid."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.cli import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "app"]
KEPT = ("PATH", "PYTHONDONTWRITEBYTECODE", "LANG")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment_of(folder: Path) -> dict[str, str]:
    """Return an environment with a database in the folder and the demo model."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "DATABASE_URL": f"sqlite:///{folder / 'cli.db'}",
        "APP_DEMO_DELAY_MS": "0",
    }


class Program:
    """The program in a folder of its own, with its own database and the demo model."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.environment = environment_of(folder)
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Ended:
        """Run it in a process of its own to its end."""
        with self.started(*arguments, **environment) as process:
            out, err = process.communicate(stdin, timeout=60)
        return Ended(process.returncode, out, err)

    @contextmanager
    def started(self, *arguments: str, **environment: str) -> Generator["subprocess.Popen[str]"]:
        """Start it in a process of its own, which does not outlive the block."""
        with subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.with_environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def call(self, *arguments: str, stdin: str = "", **environment: str) -> Ended:
        """Run it in this process to its end."""
        with self._monkeypatch.context() as patch:
            for name in os.environ:
                patch.delenv(name)
            for name, value in self.with_environment(environment).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            self._capsys.readouterr()
            with pytest.raises(SystemExit) as left:
                main(arguments)
        out, err = self._capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Ended(left.value.code, out, err)

    def with_environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**self.environment, **more}
