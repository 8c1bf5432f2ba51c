"""A program on a terminal, as a person uses it."""

import os
import pty
import select
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

from tests.cli.programs import COMMAND, Program

EDITING = "\x1b[?2004h"
"""A terminal is told to mark what is pasted: from here on a line is edited."""
WAIT_S = 30


@contextmanager
def terminal(program: Program, *arguments: str, **environment: str) -> Generator["Terminal"]:
    """Start a program on a terminal of its own; it does not outlive the block."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=program.folder,
            env=program.with_environment({"TERM": "xterm", "NO_COLOR": "1", **environment}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            try:
                yield Terminal(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)


class Terminal:
    """What a person sees and types."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self.process = process
        self._ours = descriptor
        self._unread = ""

    def read_until(self, wanted: str) -> str:
        """Return what is shown up to and with the wanted text."""
        while wanted not in self._unread:
            ready, _, _ = select.select([self._ours], [], [], WAIT_S)
            assert ready, f"{wanted!r} is not shown, but {self._unread!r}"
            chunk = os.read(self._ours, 65_536).decode()
            if "\x1b[6n" in chunk:  # asked where the cursor is, a terminal answers
                self.write("\x1b[1;1R")
            self._unread += chunk
        seen, _, self._unread = self._unread.partition(wanted)
        return seen + wanted

    def write(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def ended(self) -> int:
        """Wait for the end of the program; returns its exit code."""
        return self.process.wait(WAIT_S)
