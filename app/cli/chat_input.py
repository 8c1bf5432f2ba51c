"""What a user types into `chat`: edited on a terminal, read line by line from anything else."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import Output


class LineSource(Protocol):
    """Where the user's messages come from."""

    async def line(self, prompt: str) -> str | None:
        """Return the next message without its newline; None at the end of the input.

        Raises:
            KeyboardInterrupt: the user wants to give up the line.
        """
        ...


class PlainLines:
    """Lines of a pipe or a file, without a prompt; waiting for one blocks neither the event loop nor the program."""

    def __init__(self, descriptor: int) -> None:
        """Read from a file descriptor, which stays open."""
        self._descriptor = descriptor
        self._unread = b""
        self._ended = False

    async def line(self, prompt: str) -> str | None:
        """Return the next line; see the protocol."""
        while b"\n" not in self._unread and not self._ended:
            await self._readable()
            chunk = os.read(self._descriptor, 65_536)
            self._unread += chunk
            self._ended = not chunk
        if not self._unread:
            return None
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace").removesuffix("\r")

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        # A file is always readable and cannot be watched; neither can anything on Windows, where reading then blocks.
        with suppress(PermissionError, NotImplementedError):
            loop.add_reader(self._descriptor, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self._descriptor)


class EditedLines:
    """Lines edited on a terminal, with a history that is kept; Alt-Enter begins a new line, Enter sends."""

    def __init__(
        self, history_path: Path | None, *, terminal_input: "Input | None" = None, output: "Output | None" = None
    ) -> None:
        """None for the path: nothing is kept. Input and output: the process's terminal unless given."""
        from prompt_toolkit import PromptSession  # noqa: PLC0415 - only a terminal needs it

        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            key_bindings=_key_bindings(),
            history=_history(history_path),
            input=terminal_input,
            output=output,
            prompt_continuation="  ",
        )

    async def line(self, prompt: str) -> str | None:
        """Let the user edit a message; see the protocol."""
        try:
            return await self._session.prompt_async(prompt)
        except EOFError:
            return None


def _key_bindings() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415

    bindings = KeyBindings()

    def send(event: "KeyPressEvent") -> None:
        event.current_buffer.validate_and_handle()

    def new_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    bindings.add("enter")(send)
    bindings.add("escape", "enter")(new_line)
    return bindings


def _history(path: Path | None) -> "History":
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415

    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What people ask is nobody else's business on a shared machine.
            path.touch(mode=0o600)
            return FileHistory(str(path))
    return InMemoryHistory()
