import shlex
import signal

from tests.cli.programs import Ended, Program
from tests.cli.terminals import EDITING, terminal

ASK = "What is the weather in Lima?"
ANSWER = f"Lima: sunny (Looked up with a tool, to answer: {ASK})"
QUESTION = "for all later calls of this tool): "


def called(program: Program) -> list[str]:
    """Return what the tool did."""
    file = program.folder / "called.txt"
    return file.read_text().splitlines() if file.exists() else []


def hinted(ended: Ended, verb: str) -> list[str]:
    """Return the arguments of a command that was printed."""
    line = next(line for line in ended.err.splitlines() if f"approvals {verb}" in line)
    return shlex.split(line.partition(":")[2])[1:]


def waiting(program: Program, agent: str = "careful") -> Ended:
    """Start a run that then waits."""
    ended = program.call("run", agent, ASK, "--json")
    assert (ended.code, ended.json["status"], ended.json["output"]) == (3, "waiting", None)
    return ended


def test_a_run_that_nobody_can_decide_waits_and_goes_on_in_another_process(careful: Program) -> None:
    left = careful.run("run", "careful", ASK, "--user", "ada")
    assert (left.code, left.out) == (3, "")
    assert '? careful wants to call get_weather {"city": "Lima"}\n' in left.err
    assert called(careful) == []

    (request,) = careful.call("approvals", "ls", "--json", "--user", "ada").json["data"]
    assert (request["tool"], request["state"], request["agent"]) == ("get_weather", "pending", "careful")
    assert careful.call("approvals", "ls", "--json", "--user", "bob").json == {"data": []}
    header, row = careful.call("approvals", "ls").out.splitlines()
    assert header.split() == ["RUN", "CALL", "TOOL", "ARGUMENTS", "AGENT", "STATE", "AGE", "LEFT"]
    assert row.split()[-1] == "6d"

    allow = hinted(left, "approve")
    assert allow[2:] == [request["run_id"], request["call_id"], "--user", "ada"]
    went_on = careful.run(*allow)
    assert (went_on.code, went_on.out) == (0, f"{ANSWER}\n")
    assert called(careful) == ["Lima"]
    assert careful.call("approvals", "ls", "--json").json == {"data": []}

    again = careful.call(*allow, "--json")  # the same answer once more is none
    assert (again.code, again.json["output"]) == (0, ANSWER)
    assert called(careful) == ["Lima"]
    other = careful.call(*hinted(left, "reject"))
    assert (other.code, other.err) == (1, "Error: This request is already approved.\n")

    (decided,) = careful.call("approvals", "ls", "--run", request["run_id"], "--json").json["data"]
    assert (decided["state"], decided["decided_by"]) == ("approved", "ada")


def test_a_refusal_is_told_to_the_model(careful: Program) -> None:
    run_id = waiting(careful).json["run_id"]
    refused = careful.call("approvals", "reject", run_id, "--all", "--message", "Not today.", "--stream")
    assert refused.code == 0
    assert refused.out.startswith("Not today.")
    assert called(careful) == []
    shown = careful.call("runs", "show", run_id).out
    assert "→ rejected: Not today.\n" in shown


def test_requests_are_decided_one_by_one(careful: Program) -> None:
    ended = waiting(careful, "pair")
    run_id = ended.json["run_id"]
    assert [request["call_id"] for request in ended.json["approvals"]] == ["Lima", "Oslo"]
    assert hinted(ended, "approve")[-1] == "--all"

    first = careful.call("approvals", "approve", run_id, "Lima", "--json")
    assert (first.code, first.json) == (0, {"run_id": run_id, "undecided": 1})
    assert called(careful) == []
    second = careful.call("approvals", "reject", run_id, "/t:Oslo", "--message", "Too cold.")
    assert (second.code, second.out) == (0, "Lima: sunny / Too cold.\n")
    assert called(careful) == ["Lima"]


def test_decisions_without_going_on(careful: Program) -> None:
    run_id = waiting(careful).json["run_id"]
    decided = careful.call("approvals", "approve", run_id, "--all", "--no-resume")
    assert (decided.code, decided.out, called(careful)) == (0, "", [])
    assert decided.err.endswith(f"durable-agents runs resume {run_id}\n")
    assert careful.call("runs", "show", run_id, "--json").json["status"] == "queued"

    *events, result = careful.call("runs", "resume", run_id, "--stream", "--json").json_lines
    assert (events[0]["type"], events[-1]["type"], result["output"]) == ("run.started", "run.completed", ANSWER)
    assert events[0]["attempt"] > 1
    assert called(careful) == ["Lima"]


def test_decisions_that_are_none(careful: Program) -> None:
    run_id = waiting(careful).json["run_id"]
    for wrong in ([], ["some-call", "--all"]):
        told = careful.call("approvals", "approve", run_id, *wrong)
        assert (told.code, told.err) == (2, "Error: Name the calls, or decide every open request with --all.\n")
    unknown = careful.call("approvals", "approve", run_id, "some-call")
    assert (unknown.code, unknown.err) == (2, "Error: The run has no such request.\n")
    stranger = careful.call("approvals", "approve", run_id, "--all", "--organization", "other")
    assert (stranger.code, stranger.err) == (1, f"Error: There is no run '{run_id}'.\n")
    assert careful.call("runs", "cancel", run_id).code == 0
    late = careful.call("approvals", "approve", run_id, "--all")
    assert (late.code, late.err) == (1, f"Error: {run_id} has no open request.\n")


def test_a_person_on_a_terminal_is_asked(careful: Program) -> None:
    with terminal(careful, "run", "careful", ASK, "--stream") as shown:
        shown.read_until(QUESTION)
        shown.write("perhaps\n")
        shown.read_until(QUESTION)
        shown.write("y\n")
        shown.read_until(ANSWER)
        assert shown.ended() == 0
    assert called(careful) == ["Lima"]


def test_someone_else_was_faster(careful: Program) -> None:
    with terminal(careful, "run", "careful", ASK) as shown:
        shown.read_until(QUESTION)
        (request,) = careful.call("approvals", "ls", "--json").json["data"]
        assert careful.call("approvals", "approve", request["run_id"], request["call_id"]).code == 0
        shown.write("n\n")
        shown.read_until("This request is already approved.")
        shown.read_until(ANSWER)
        assert shown.ended() == 0
    assert called(careful) == ["Lima"]


def test_a_person_leaves_the_question_open(careful: Program) -> None:
    with terminal(careful, "run", "careful", ASK) as shown:
        shown.read_until(QUESTION)
        shown.write("\x04")  # Ctrl-D
        shown.read_until("Allow it with: ")
        shown.read_until("Refuse it with: ")
        assert shown.ended() == 3
    assert len(careful.call("approvals", "ls", "--json").json["data"]) == 1


def test_ctrl_c_at_the_question_cancels_the_run(careful: Program) -> None:
    with terminal(careful, "run", "careful", ASK) as shown:
        shown.read_until(QUESTION)
        shown.process.send_signal(signal.SIGINT)
        shown.read_until("Error: ")
        assert shown.ended() == 130
    (run,) = careful.call("runs", "ls", "--json").json["data"]
    assert (run["status"], run["cancel_reason"]) == ("cancelled", "user")
    assert careful.call("approvals", "ls", "--json").json == {"data": []}


def test_chat_asks_and_goes_on(careful: Program) -> None:
    with terminal(careful, "chat", "careful") as shown:
        shown.read_until(EDITING)
        shown.write(f"{ASK}\r")
        shown.read_until(QUESTION)
        shown.write("n It is a secret.\n")
        shown.read_until("It is a secret. (Looked up")
        shown.read_until(EDITING)
        shown.write("\x04")
        shown.read_until("Go on with: ")
        assert shown.ended() == 0


def test_chat_without_a_terminal_ends_where_a_person_is_needed(careful: Program) -> None:
    left = careful.run("chat", "careful", stdin=f"{ASK}\nnever said\n")
    assert (left.code, left.out) == (3, "")
    (run,) = careful.call("runs", "ls", "--json").json["data"]
    again = careful.run("chat", "--conversation", run["conversation_id"], stdin="never said either\n")
    assert (again.code, again.out) == (3, "")
    assert hinted(again, "approve") == hinted(left, "approve")

    # The next message would wait for it, which is said.
    busy = careful.call("run", "careful", "hello", "--conversation", run["conversation_id"], "--on-busy", "reject")
    assert (busy.code, busy.out) == (1, "")

    with terminal(careful, "chat", "--conversation", run["conversation_id"]) as shown:
        shown.read_until(QUESTION)
        shown.write("a\n")
        shown.read_until("Lima: sunny")
        shown.read_until(EDITING)
        shown.write("What did I say first?\r")
        shown.read_until(f"Earlier you said: {ASK}")
        shown.read_until(EDITING)
        shown.write("\x04")
        assert shown.ended() == 0
