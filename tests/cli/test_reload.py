"""The server with a file of destinations: what is wrong in it is told in one line, and SIGHUP reads it again."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.programs import Program
from tests.cli.test_serve import message_of, posted, serving

KEY = "scr_prod_abc123def456"


def file_of(*destinations: tuple[str, str], more: str = "") -> str:
    lines = ["session_completion_runtime:", "  destinations:"]
    for name, endpoint in destinations:
        lines += [f"    - name: {name}", "      kind: jsonl", f"      endpoint: {endpoint}"]
    return "\n".join([*lines, more])


def sessions_in(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [json.loads(line)["session_id"] for line in path.read_text().splitlines()]


def wait_for(path: Path, count: int) -> list[str]:
    ends_at = time.monotonic() + 30
    while len(sessions_in(path)) < count:
        assert time.monotonic() < ends_at, path
        time.sleep(0.02)
    return sessions_in(path)


def chat(address: str) -> None:
    with posted(address, "/api/chat", message_of(address)) as reply:
        assert reply.status == 200, reply.read()
        reply.read()


def told(process: "subprocess.Popen[str]", event: str) -> dict[str, object]:
    """Read the log until a line tells of an event."""
    assert process.stderr is not None
    for line in process.stderr:
        if f'"{event}"' in line:
            return json.loads(line)
    raise AssertionError(event)


def test_sighup_reads_the_file_again(program: Program) -> None:
    config, first, second = (program.folder / name for name in ("scr.yaml", "first.jsonl", "second.jsonl"))
    config.write_text(file_of(("audit", str(first))))
    (program.folder / ".env").write_text("SCR_CONFIG=scr.yaml\n")
    with serving(program) as (process, address):
        chat(address)
        (one,) = wait_for(first, 1)

        config.write_text(file_of(("archive", str(second))))
        process.send_signal(signal.SIGHUP)
        assert wait_for(second, 1) == [one]  # what was recorded before belongs to a new destination, too
        reloaded = told(process, "capture_reloaded")
        assert (reloaded["added"], reloaded["changed"], reloaded["removed"]) == (["archive"], [], ["audit"])
        chat(address)
        before = wait_for(second, 2)

        config.write_text(file_of(("archive", str(second)), ("audit", "nowhere/there.jsonl")))
        process.send_signal(signal.SIGHUP)
        refused = told(process, "capture_not_reloaded")
        assert str(refused["error"]).startswith("scr.yaml, line 8: destinations.audit.endpoint: ")
        chat(address)
        after = wait_for(second, 3)
        assert after[:2] == before

        # The name goes on where it was: nothing twice, nothing left out.
        config.write_text(file_of(("archive", str(second)), ("audit", str(first))))
        process.send_signal(signal.SIGHUP)
        assert sorted(wait_for(first, 3)) == sorted(after)  # sessions keep an order of their own only

        (program.folder / ".env").write_text("SCR_CONFIG=gone.yaml\n")
        process.send_signal(signal.SIGHUP)
        assert "SCR_CONFIG: 'gone.yaml' cannot be read" in str(told(process, "capture_not_reloaded")["error"])
        chat(address)
        assert sorted(wait_for(first, 4)) == sorted(wait_for(second, 4))

        (program.folder / ".env").write_text("SCR_CONFIG=scr.yaml\nSCR_LOG_LEVEL=warning\n")
        config.write_text(file_of(("archive", str(second))))
        process.send_signal(signal.SIGHUP)
        assert told(process, "capture_reloaded")["removed"] == ["audit"]
        chat(address)
        wait_for(second, 5)
        config.write_text(file_of(("archive", str(second)), more="# once more"))
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        # What went well is below the level now; what needs a person is not.
        left = json.loads(process.stderr.readline())
        assert (left["event"], left["destination"], left["unread"]) == ("destination_not_configured", "audit", 1)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (file_of(("audit", "nowhere/a.jsonl")), "scr.yaml, line 5: destinations.audit.endpoint: a file"),
        (file_of(("audit", "a.jsonl"), more="      transform: nonsense"), "scr.yaml, line 3: There is no transform"),
        (file_of(("audit", "a.jsonl"), more="      retries: 2"), "scr.yaml, line 6: "),
        (file_of(("we_1", "a.jsonl")), "scr.yaml, line 3: destinations.we_1.name: "),
    ],
    ids=["endpoint", "transform", "key", "name"],
)
def test_a_wrong_file_ends_the_start_in_one_line(program: Program, text: str, expected: str) -> None:
    (program.folder / "scr.yaml").write_text(text)
    ended = program.call("serve", "--port", "0", SCR_CONFIG="scr.yaml")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith(f"Error: {expected}")
    assert "Traceback" not in ended.err


def test_doctor_shows_capture_with_sources(program: Program) -> None:
    (program.folder / "scr.yaml").write_text(
        file_of(("audit", "audit.jsonl"), more="  capture: {batch_size: 7}\n  scaling: {replicas: 10}\n")
    )
    environment = {"SCR_CONFIG": "scr.yaml", "SCR_API_KEY": KEY}
    ended = program.call("doctor", "--offline", "--json", **environment)
    entries = {entry["variable"]: entry for entry in ended.json["settings"]}
    assert (entries["SCR_API_KEY"]["value"], entries["SCR_API_KEY"]["source"]) == ("***f456", "environment")
    assert (entries["SCR_BATCH_SIZE"]["value"], entries["SCR_BATCH_SIZE"]["source"]) == ("7", "scr.yaml, line 6")
    assert entries["SCR_METRICS_PORT"]["source"] == "default"
    assert ended.json["destinations"] == [{"name": "audit", "kind": "jsonl", "endpoint": "audit.jsonl"}]
    assert ended.code == 1
    assert "replicas is 10" in ended.json["problems"][0]
    shown = program.call("doctor", "--offline", **environment).out
    assert "Destination: audit (jsonl audit.jsonl)" in shown
    assert KEY not in shown

    (program.folder / "scr.yaml").write_text(file_of(("audit", "nowhere/audit.jsonl")))
    (problem,) = program.call("doctor", "--offline", "--json", **environment).json["problems"]
    assert problem.startswith("scr.yaml, line 5: destinations.audit.endpoint: ")
    (program.folder / "scr.yaml").write_text("nonsense: 1\n")
    ended = program.call("doctor", "--offline", "--json", **environment)
    assert (ended.code, ended.json["settings"]) == (1, [])
    assert ended.json["problems"] == ["scr.yaml, line 1: nonsense: there is no such key."]
