import os
import pty
import re
import signal
import subprocess

from tests.cli.programs import COMMAND, Program

EDITING = "\x1b[?2004h"
"""A terminal is told to mark what is pasted: from here on a line is edited."""


def test_chat_reads_lines_of_a_pipe(program: Program) -> None:
    said = [
        "hello",
        "/agent poet",
        "/agent nobody",
        "/bogus",
        "a poem please",
        "What did I say first?",
        "/help",
        "/new",
    ]
    told = program.run("chat", stdin="\n".join([*said, "/exit", "never read"]) + "\n")
    assert told.code == 0
    first, poem, remembered = told.out.splitlines()
    assert first.startswith("You said: hello")
    assert poem.startswith("Roses are red")
    assert remembered == "Earlier you said: hello / a poem please"
    assert "the demo model (set OPENAI_API_KEY" in told.err
    assert "Error: There is no agent 'nobody'. Known agents: demo, poet.\n" in told.err
    assert "There is no command /bogus." in told.err
    assert len(re.findall(r"^[\d,]+ tokens \(\d+ in, \d+ out\) · no price · \d+ ms$", told.err, re.MULTILINE)) == 3
    assert "/exit         leave" in told.err


def test_chat_goes_on_with_a_conversation_and_ends_at_the_end_of_the_input(program: Program) -> None:
    first = program.call("run", "poet", "hello", "--json").json
    told = program.run("chat", "--conversation", first["conversation_id"], stdin="What did I say first?")
    assert (told.code, told.out) == (0, "Earlier you said: hello\n")
    assert "2 messages" in told.err
    assert f"Go on with: durable-agents chat --conversation {first['conversation_id']}" in told.err
    unknown = program.call("chat", "--conversation", "conv_none")
    assert (unknown.code, unknown.out, unknown.err) == (1, "", "Error: There is no conversation 'conv_none'.\n")


class Terminal:
    """A program on a terminal of its own, read until something is seen."""

    def __init__(self, program: Program, *arguments: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=program.folder,
            env=program.with_environment({"TERM": "xterm", "NO_COLOR": "1", **environment}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._unread = ""

    def read_until(self, wanted: str) -> str:
        """Return what is shown up to and with the wanted text."""
        while wanted not in self._unread:
            chunk = os.read(self._ours, 65_536).decode()
            if "\x1b[6n" in chunk:  # asked where the cursor is, a terminal answers
                self.write("\x1b[1;1R")
            self._unread += chunk
        seen, _, self._unread = self._unread.partition(wanted)
        return seen + wanted

    def write(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> int:
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            os.close(self._ours)


def test_chat_on_a_terminal_stops_an_answer_and_goes_on(program: Program) -> None:
    terminal = Terminal(program, "chat", APP_DEMO_DELAY_MS="300")
    terminal.read_until(EDITING)
    terminal.write("hello\r")
    terminal.read_until("You said: ")
    terminal.process.send_signal(signal.SIGINT)  # what Ctrl-C does while no line is edited
    terminal.read_until("Error: ")
    terminal.read_until("tokens")
    terminal.read_until(EDITING)
    terminal.write("two\x1b\rlines\x03")  # Alt-Enter; Ctrl-C gives up the line
    terminal.read_until(EDITING)
    terminal.write("\x04")  # Ctrl-D
    terminal.read_until("Go on with: ")
    assert terminal.close() == 0
    kept = program.call("conversations", "ls", "--json").json["data"]
    assert [(conversation["run_count"], conversation["message_count"]) for conversation in kept] == [(1, 1)]
