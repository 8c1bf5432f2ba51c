import re
import signal

from tests.cli.programs import Program
from tests.cli.terminals import EDITING, terminal


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


def test_chat_on_a_terminal_stops_an_answer_and_goes_on(program: Program) -> None:
    with terminal(program, "chat", APP_DEMO_DELAY_MS="300") as shown:
        shown.read_until(EDITING)
        shown.write("hello\r")
        shown.read_until("You said: ")
        shown.process.send_signal(signal.SIGINT)  # what Ctrl-C does while no line is edited
        shown.read_until("Error: ")
        shown.read_until("tokens")
        shown.read_until(EDITING)
        shown.write("two\x1b\rlines\x03")  # Alt-Enter; Ctrl-C gives up the line
        shown.read_until(EDITING)
        shown.write("\x04")  # Ctrl-D
        shown.read_until("Go on with: ")
        assert shown.ended() == 0
    kept = program.call("conversations", "ls", "--json").json["data"]
    assert [(conversation["run_count"], conversation["message_count"]) for conversation in kept] == [(1, 1)]
