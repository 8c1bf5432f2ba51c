import json
import signal
import subprocess
from typing import Any

from tests.cli.programs import Program

ASK = "What is the weather in Lima?"
SLOW = {"APP_DEMO_DELAY_MS": "300"}


def events_until(process: "subprocess.Popen[str]", kind: str) -> list[Any]:
    """Read the JSON lines of a streamed run up to an event."""
    assert process.stdout is not None
    events: list[Any] = []
    while not events or events[-1]["type"] != kind:
        line = process.stdout.readline()
        assert line, events
        events.append(json.loads(line))
    return events


def test_runs_are_listed_in_pages_and_shown(program: Program) -> None:
    first = program.call("run", "demo", ASK, "--user", "ada", "--json").json
    second = program.call("run", "poet", "hello", "--user", "ada", "--json").json
    ids = [second["run_id"], first["run_id"]]

    listed = program.call("runs", "ls", "--json").json
    assert ([run["run_id"] for run in listed["data"]], listed["has_more"]) == (ids, False)
    page = program.call("runs", "ls", "--limit", "1")
    assert page.err == f"There are more: --after {ids[0]}\n"
    header, row = page.out.splitlines()
    assert header.split() == ["RUN", "STATUS", "AGENT", "ATTEMPTS", "AGE", "OWNER", "CONVERSATION"]
    assert row.split()[:4] == [ids[0], "completed", "poet", "1"]
    rest = program.call("runs", "ls", "--after", ids[0], "--json").json["data"]
    assert [run["run_id"] for run in rest] == ids[1:]
    of_one = program.call("runs", "ls", "--conversation", first["conversation_id"], "--json").json["data"]
    assert [run["run_id"] for run in of_one] == ids[1:]
    unfinished = program.call("runs", "ls", "--status", "queued", "--status", "running", "--json")
    assert unfinished.json == {"data": [], "has_more": False}
    assert program.call("runs", "ls", "--status", "lost").code == 2
    assert program.call("runs", "ls", "--user", "bob", "--json").json["data"] == []

    shown = program.call("runs", "show", ids[1], "--json").json
    assert (shown["status"], shown["result"], shown["approvals"]) == ("completed", first, [])
    text = program.call("runs", "show", ids[1]).out
    assert '\nTool calls\n  get_weather {"city": "Lima"} → Lima: ' in text
    assert text.endswith(f"\n{first['output']}\n")
    for verb in ("show", "cancel", "resume"):
        stranger = program.call("runs", verb, ids[1], "--user", "bob")
        assert (stranger.code, stranger.out, stranger.err) == (1, "", f"Error: There is no run '{ids[1]}'.\n")


def test_a_run_of_another_process_is_cancelled(program: Program) -> None:
    with program.started("run", "demo", "hello", "--stream", "--json", **SLOW) as process:
        run_id = events_until(process, "text.delta")[0]["run_id"]
        held = program.call("runs", "resume", run_id)
        assert (held.code, held.out) == (1, "")
        assert held.err.startswith(f"Error: {run_id} is executed by ")

        asked = program.call("runs", "cancel", run_id)
        out, _ = process.communicate(timeout=30)
    assert asked.code == 0
    assert asked.out in {f"{run_id} cancelled\n", f"{run_id} running\n"}  # by how quick the other process is
    *_, last, result = (json.loads(line) for line in out.splitlines())
    assert (last["type"], last["reason"], result["status"]) == ("run.cancelled", "user", "cancelled")
    assert process.returncode == 1  # nobody pressed Ctrl-C there

    again = program.call("runs", "cancel", run_id, "--json").json["data"]
    assert [(run["run_id"], run["status"]) for run in again] == [(run_id, "cancelled")]
    printed = program.call("runs", "resume", run_id, "--stream", "--json")
    assert (printed.code, [line["type"] for line in printed.json_lines]) == (1, ["run.cancelled", "result"])


def test_a_run_of_a_killed_process_goes_on(program: Program) -> None:
    with program.started("run", "demo", ASK, "--stream", "--json", APP_RUN_LEASE_S="1", **SLOW) as process:
        run_id = events_until(process, "tool.output")[0]["run_id"]
        events_until(process, "text.delta")
        process.kill()
    went_on = program.call("runs", "resume", run_id)
    while went_on.code == 1:  # until its lease is over
        assert "try again when its lease is over" in went_on.err
        went_on = program.call("runs", "resume", run_id)
    assert went_on.out.startswith("Lima: ")
    shown = program.call("runs", "show", run_id, "--json").json
    assert (shown["status"], shown["attempts"], shown["owner"]) == ("completed", 2, None)
    assert len(shown["result"]["tool_calls"]) == 1
    # The answer whose process was lost, and the one that was given; the call of the tool is not repeated.
    assert shown["result"]["usage"]["requests"] == 2


def test_the_same_key_starts_no_second_run(program: Program) -> None:
    first = program.call("run", "demo", "hello", "--idempotency-key", "k-1", "--json").json
    again = program.call("run", "demo", "hello", "--idempotency-key", "k-1", "--json")
    assert (again.code, again.json) == (0, first)
    assert again.err == f"Started earlier with this key: {first['run_id']}\n"
    other = program.call("run", "demo", "something else", "--idempotency-key", "k-1")
    assert (other.code, other.out) == (1, "")
    assert len(program.call("runs", "ls", "--json").json["data"]) == 1
    wrong = program.call("run", "demo", "hello", "--idempotency-key", "")
    assert wrong.code == 2


def test_what_a_new_input_does_to_a_run_that_waits(careful: Program) -> None:
    waiting = careful.call("run", "careful", ASK, "--json").json
    run_id, thread = waiting["run_id"], ("--conversation", waiting["conversation_id"])

    refused = careful.call("run", "careful", "hello", *thread, "--on-busy", "reject")
    assert (refused.code, refused.out) == (1, "")
    with careful.started("run", "careful", "hello", *thread) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"Queued behind {run_id}, which waits for approvals.\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    (queued,) = careful.call("runs", "ls", "--status", "queued", "--json").json["data"]
    assert err == f"Error: {queued['run_id']} ends as soon as its turn comes.\n"
    assert queued["cancel_reason"] == "user"
    assert careful.call("runs", "show", run_id, "--json").json["status"] == "waiting"

    instead = careful.call("run", "careful", "hello", *thread, "--on-busy", "interrupt", "--json")
    assert (instead.code, instead.json["status"]) == (0, "completed")
    assert careful.call("runs", "show", queued["run_id"], "--json").json["status"] == "cancelled"
    interrupted = careful.call("runs", "show", run_id, "--json").json
    assert (interrupted["status"], interrupted["cancel_reason"]) == ("cancelled", "interrupted")


def test_what_is_too_old_is_deleted(program: Program) -> None:
    run_id = program.call("run", "demo", ASK, "--stream", "--json").json_lines[-1]["run_id"]
    now = {f"APP_JOURNAL_KEEP_{rows}_D": "0" for rows in ("DELTAS", "STEPS", "COMPLETIONS")}
    kept = program.call("db", "prune", "--json").json
    tables = ("delta", "event", "step", "completion", "conversation")
    assert kept == {"dry_run": False, **{f"{table}_rows": 0 for table in tables}}
    counted = program.call("db", "prune", "--dry-run", "--json", **now).json
    assert (counted["step_rows"], counted["completion_rows"]) == (3, 1)
    assert program.call("db", "prune", "--dry-run", **now).out.startswith("would delete rows: ")
    deleted = program.call("db", "prune", "--json", **now).json
    assert deleted == {**counted, "dry_run": False}
    again = program.call("db", "prune", **now).out
    assert again.startswith("deleted rows: 0 of deltas, 0 of events, 0 of steps, 0 of completion events, 0 of conv")
    assert program.call("runs", "show", run_id, "--json").json["result"]["status"] == "completed"
