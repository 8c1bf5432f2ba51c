"""Fixtures of the command line's tests."""

import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.cli.programs import Program


@pytest.fixture
def process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what a command does to its process: logs, import paths, working directory."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def program(
    process_state: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """Return the program with a database of its own."""
    return Program(tmp_path, monkeypatch, capsys)


@pytest.fixture
def careful(program: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return the program with agents whose tools need approval; `called.txt` says what they did."""
    shutil.copy(Path(__file__).with_name("careful.py"), program.folder)
    program.environment["APP_AGENTS"] = "careful:agents"
    monkeypatch.delitem(sys.modules, "careful", raising=False)
    return program
