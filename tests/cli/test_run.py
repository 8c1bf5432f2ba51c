import json
import signal

from tests.cli.programs import Program

RESULT_KEYS = {
    "run_id",
    "conversation_id",
    "agent",
    "status",
    "output",
    "usage",
    "tool_calls",
    "handoffs",
    "duration_ms",
    "model",
    "error",
    "approvals",
}


def test_one_object_tells_of_the_run_and_another_process_remembers_it(program: Program) -> None:
    first = program.run("run", "demo", "What is the weather in Lisbon?", "--json", "--user", "ada")
    assert (first.code, first.err) == (0, "")
    told = first.json
    assert set(told) == RESULT_KEYS
    assert (told["agent"], told["status"], told["model"], told["error"]) == ("demo", "completed", "demo", None)
    assert "Lisbon" in told["output"]
    assert set(told["usage"]) == {
        "requests",
        "input_tokens",
        "cached_tokens",
        "output_tokens",
        "reasoning_tokens",
        "total_tokens",
        "cost_usd",
    }
    assert told["usage"]["requests"] == 2
    assert told["usage"]["cost_usd"] is None
    assert [(call["name"], json.loads(call["arguments"])) for call in told["tool_calls"]] == [
        ("get_weather", {"city": "Lisbon"})
    ]

    again = ("run", "demo", "-", "--conversation", told["conversation_id"], "--json")
    assert "Earlier you said: What is the weather in Lisbon?" in program.run(*again, stdin="What did I ask first?").out
    stranger = program.call(*again, "--organization", "other", stdin="What did I ask first?")
    assert (stranger.code, stranger.out) == (1, "")
    assert stranger.err == f"Error: There is no conversation '{told['conversation_id']}'.\n"


def test_a_streamed_run_is_text_and_json_lines(program: Program) -> None:
    text = program.run("run", "demo", "What is the weather in Lisbon?", "--stream")
    assert text.code == 0
    assert text.out.startswith("Lisbon: ")
    assert text.out.endswith("Lisbon?)\n")
    assert '→ get_weather {"city": "Lisbon"}\n← get_weather: Lisbon: ' in text.err
    assert "\x1b" not in text.out + text.err

    lines = program.run("run", "demo", "A poem about logs, please", "--stream", "--json")
    assert (lines.code, lines.err) == (0, "")
    *events, result = lines.json_lines
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run.started"
    assert events[-1]["type"] == "run.completed"
    assert {"handoff", "text.delta", "usage"} <= {event["type"] for event in events}
    assert result["type"] == "result"
    assert set(result) == RESULT_KEYS | {"type"}
    assert result["handoffs"] == [{"from_agent": "demo", "to_agent": "poet"}]
    assert result["output"] == events[-1]["output"]


def test_a_mistake_is_one_line_and_an_exit_code(program: Program) -> None:
    unknown = program.run("run", "nobody", "hello", "--json")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == "Error: There is no agent 'nobody'. Known agents: demo, poet.\n"

    option = program.call("run", "demo", "hello", "--bad")
    assert (option.code, option.out) == (2, "")
    assert option.err.startswith("Error: No such option: --bad")
    assert option.err.endswith("See 'durable-agents run --help'.\n")
    assert option.err.count("\n") == 1

    empty = program.call("run", "demo", "-")
    assert (empty.code, empty.out, empty.err) == (2, "", "Error: The input is empty.\n")

    database = program.call("run", "demo", "hello", "--database", "mysql://localhost/x")
    assert (database.code, database.out) == (1, "")
    assert database.err == "Error: DATABASE_URL names 'mysql'; only sqlite and postgresql are supported.\n"

    missing = program.call("agents", "--database", "sqlite:////nowhere/at/all.db")
    assert missing.code == 1
    assert missing.err.startswith("Error: DATABASE_URL: there is no folder '/nowhere/at'.")
    assert missing.err.count("\n") == 1


def test_ctrl_c_cancels_a_run_and_what_it_used_is_recorded(program: Program) -> None:
    with program.started("run", "demo", "hello", "--stream", "--json", APP_DEMO_DELAY_MS="300") as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or json.loads(lines[-1])["type"] != "text.delta":
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == ""
    cancelled, result = (json.loads(line) for line in rest.splitlines()[-2:])
    assert (cancelled["type"], cancelled["reason"]) == ("run.cancelled", "user")
    assert (result["status"], result["output"], result["error"]["code"]) == ("cancelled", None, "run_cancelled")

    by_agent = program.call("usage", "--by", "agent", "--json").json
    assert [(group["key"], group["requests"], group["estimated_requests"]) for group in by_agent["data"]] == [
        ("demo", 1, 1)
    ]
    history = program.call("conversations", "show", result["conversation_id"], "--json").json
    assert [message["text"] for message in history["messages"]] == ["hello"]
