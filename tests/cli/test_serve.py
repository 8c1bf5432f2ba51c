import http.client
import json
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

from tests.cli.programs import Program


@contextmanager
def serving(program: Program, **environment: str) -> "Generator[tuple[subprocess.Popen[str], str]]":
    """Start a server; gives its process and its URL."""
    with program.started("serve", "--port", "0", **environment) as process:
        assert process.stderr is not None
        seen = ""
        while "Application startup complete" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        url = re.search(r"http://(127\.0\.0\.1:\d+)", seen)
        assert url is not None
        yield process, url[1]


@contextmanager
def posted(address: str, path: str, body: Any) -> Generator[http.client.HTTPResponse]:
    """Send a request; gives the reply, to be read in the block."""
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        with connection.getresponse() as reply:
            yield reply


def message_of(address: str) -> dict[str, str]:
    with posted(address, "/api/session", {}) as reply:
        return {"sessionId": json.load(reply)["sessionId"], "message": "hello"}


def test_serve_answers_and_stops_in_order_at_ctrl_c(program: Program) -> None:
    with program.started("serve", "--port", "0") as process:
        assert process.stderr is not None
        seen = ""
        while "Application startup complete" not in seen:
            seen += process.stderr.readline()
        url = re.search(r"Serving demo, poet at (http://127\.0\.0\.1:\d+) with the demo model", seen)
        assert url is not None
        with urllib.request.urlopen(f"{url[1]}/healthz", timeout=10) as reply:
            assert reply.status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Application shutdown complete" in err
    assert "Traceback" not in seen + err


def test_serve_says_in_one_line_why_it_cannot(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = program.call("serve", "--port", port)
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith(f"Error: Cannot listen on 127.0.0.1:{port}: ")
    assert told.err.endswith("Choose another --port.\n")

    agents = program.call("serve", "--port", "0", "--agents", "nowhere:agent")
    assert agents.code == 1
    assert "'nowhere' cannot be imported" in agents.err
    assert "Traceback" not in agents.err

    exposed = program.call("serve", "--port", "0", "--host", "0.0.0.0")
    assert exposed.code == 1
    assert "no keys yet" in exposed.err.splitlines()[-1]
    assert "Traceback" not in exposed.err


def test_streams_end_at_the_signal_and_their_runs_get_the_time(program: Program) -> None:
    with serving(program, APP_DEMO_DELAY_MS="100") as (process, address):
        with posted(address, "/api/chat/stream", message_of(address)) as stream:
            run_id = stream.headers["x-run-id"]
            while b"text.delta" not in stream.readline():
                pass
            process.send_signal(signal.SIGTERM)
            rest = stream.read().decode()
            still_there = process.poll() is None
        process.communicate(timeout=30)
    assert still_there
    assert "event: run.completed" not in rest
    assert rest.endswith("\n\n")
    assert "event: error" not in rest
    assert program.call("runs", "show", run_id, "--json").json["status"] == "completed"


def test_a_run_that_is_not_done_in_time_is_left_to_the_next_process(program: Program) -> None:
    with serving(program, APP_DEMO_DELAY_MS="2000", APP_RUN_SHUTDOWN_GRACE_S="0.2") as (process, address):
        with posted(address, "/api/runs", message_of(address)) as reply:
            started = json.load(reply)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    left = program.call("runs", "show", started["runId"], "--json").json
    assert (left["owner"], left["result"]) == (None, None)
    went_on = program.call("runs", "resume", started["runId"], "--json").json
    assert (went_on["status"], went_on["run_id"]) == ("completed", started["runId"])


def test_the_server_goes_on_with_a_run_that_the_command_line_has_decided(careful: Program) -> None:
    waiting = careful.call("run", "careful", "What is the weather in Lima?", "--json").json
    with serving(careful) as (process, _):
        decided = careful.call("approvals", "approve", waiting["run_id"], "--all")
        assert (decided.code, decided.out.startswith("Lima: sunny")) == (0, True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert (careful.folder / "called.txt").read_text() == "Lima\n"
