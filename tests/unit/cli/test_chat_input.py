import asyncio
import os
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from app.cli.chat_input import EditedLines, PlainLines


async def test_lines_of_a_pipe_are_waited_for() -> None:
    reading, writing = os.pipe()
    try:
        lines = PlainLines(reading)
        waiting = asyncio.create_task(lines.line("> "))
        await asyncio.sleep(0)
        os.write(writing, "Grüße\r\n\nlast".encode())
        assert [await waiting, await lines.line("> ")] == ["Grüße", ""]
        os.close(writing)
        assert [await lines.line("> "), await lines.line("> ")] == ["last", None]
    finally:
        os.close(reading)


async def test_lines_of_a_file_and_of_broken_text(tmp_path: Path) -> None:
    path = tmp_path / "said.txt"
    path.write_bytes(b"caf\xe9\nend")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lines = PlainLines(descriptor)
        assert [await lines.line(""), await lines.line(""), await lines.line("")] == ["caf\ufffd", "end", None]
    finally:
        os.close(descriptor)


async def test_enter_sends_and_alt_enter_begins_a_line(tmp_path: Path) -> None:
    history = tmp_path / "state" / "history"
    with create_pipe_input() as keys:
        lines = EditedLines(history, terminal_input=keys, output=DummyOutput())
        keys.send_text("two\x1b\rlines\r")
        assert await lines.line("> ") == "two\nlines"
        keys.send_text("gone\x03")
        with pytest.raises(KeyboardInterrupt):
            await lines.line("> ")
        keys.send_text("\x1b[A\r")  # up: the line before
        assert await lines.line("> ") == "two\nlines"
        keys.send_text("\x04")
        assert await lines.line("> ") is None
    assert "+two\n+lines\n" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


async def test_a_history_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with create_pipe_input() as keys:
        lines = EditedLines(tmp_path / "file" / "history", terminal_input=keys, output=DummyOutput())
        keys.send_text("hello\r")
        assert await lines.line("> ") == "hello"
