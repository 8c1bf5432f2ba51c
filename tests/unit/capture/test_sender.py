"""Events reach the server whatever it does in between, and each is counted once."""

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from app.capture import SessionCompletionRuntime
from app.capture.transport import Transport
from app.domain.errors import ConfigurationError
from tests.unit.capture.receiving import Receiver, says, until

Build = Callable[..., SessionCompletionRuntime]
ROOT = Path(__file__).parents[3]


def put_aside(folder: Path) -> list[tuple[str, str]]:
    cursor = sqlite3.connect(folder / "cursor.db")
    try:
        rows = cursor.execute("SELECT body, reason FROM put_aside ORDER BY number").fetchall()
        return [(body.decode(), reason) for body, reason in rows]
    finally:
        cursor.close()


def send(runtime: SessionCompletionRuntime, sessions: range) -> set[str]:
    many = runtime.capture_many([{"session_id": f"s{number}"} for number in sessions])
    assert many.accepted == len(sessions)
    return {str(one.event_id) for one in many.events}


@pytest.mark.parametrize("mode", ["memory", "spool", "fsync"])
def test_events_are_sent_in_batches_over_one_connection(mode: str, build: Build, receiver: Receiver) -> None:
    runtime = build(mode=mode, endpoint=receiver.url, batch_size=10)
    ids = send(runtime, range(95))
    assert runtime.flush(10)
    assert receiver.accepted.keys() == ids
    headers = receiver.requests[0][0]
    assert headers["Authorization"] == "Bearer sk-test"
    assert all(len(events) <= 10 for _, events in receiver.requests)
    assert receiver.connections == 1
    metrics = runtime.get_metrics()
    assert (metrics.sent, metrics.waiting_bytes, metrics.failed_requests) == (95, 0, 0)


@pytest.mark.parametrize("compression", [True, False])
def test_large_requests_are_compressed_if_so_set(compression: bool, build: Build, receiver: Receiver) -> None:
    runtime = build(endpoint=receiver.url, compression=compression)
    send(runtime, range(50))
    assert runtime.flush(10)
    assert (receiver.requests[0][0].get("Content-Encoding") == "gzip") is compression


def test_a_server_that_takes_no_compression_gets_none(build: Build, receiver: Receiver) -> None:
    receiver.script = [says(415)]
    runtime = build(endpoint=receiver.url)
    ids = send(runtime, range(50))
    assert runtime.flush(10)
    assert receiver.accepted.keys() == ids
    assert "Content-Encoding" not in receiver.requests[1][0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_failure_is_tried_again(status: int, build: Build, receiver: Receiver) -> None:
    receiver.script = [says(status), says(status)]
    runtime = build(endpoint=receiver.url)
    ids = send(runtime, range(5))
    assert runtime.flush(10)
    assert receiver.accepted.keys() == ids
    assert [len(events) for _, events in receiver.requests] == [5, 5, 5]
    assert runtime.get_metrics().failed_requests == 2


def test_a_time_to_wait_is_kept(build: Build, receiver: Receiver) -> None:
    receiver.script = [says(429, {"Retry-After": "1"})]
    runtime = build(endpoint=receiver.url, flush_interval_ms=1)
    begun = time.monotonic()
    ids = send(runtime, range(1))
    assert receiver.wait(lambda: receiver.accepted.keys() == ids)
    assert time.monotonic() - begun > 0.9


def test_a_server_that_hangs_costs_no_event(build: Build, receiver: Receiver) -> None:
    receiver.script = [receiver.hang, receiver.hang]
    runtime = build(endpoint=receiver.url, timeout_ms=40)
    ids = send(runtime, range(3))
    assert runtime.flush(10)
    assert receiver.accepted.keys() == ids
    assert runtime.get_metrics().failed_requests >= 2


def test_capture_is_not_held_up_by_a_server_that_hangs(build: Build, receiver: Receiver) -> None:
    receiver.answer = receiver.hang
    runtime = build(endpoint=receiver.url, timeout_ms=20_000, batch_size=1)
    runtime.capture({"session_id": "s"})
    assert receiver.wait(lambda: len(receiver.requests) == 1)
    begun = time.monotonic()
    assert all(runtime.capture({"session_id": "s"}).accepted for _ in range(200))
    assert time.monotonic() - begun < 2
    assert not runtime.close(0.1)


def test_nobody_there_costs_no_event(build: Build, receiver: Receiver) -> None:
    runtime = build(endpoint="http://127.0.0.1:9")
    ids = send(runtime, range(3))
    assert not runtime.flush(0.2)
    runtime.close(0)
    again = build(endpoint=receiver.url)
    assert again.flush(10)
    assert receiver.accepted.keys() == ids


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_a_refused_key_keeps_events_and_says_so(
    status: int, build: Build, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = says(status)
    runtime = build(endpoint=receiver.url, flush_interval_ms=5)
    with caplog.at_level(logging.ERROR, "app.capture"):
        ids = send(runtime, range(3))
        assert until(lambda: runtime.get_metrics().paused)
    assert "SCR_API_KEY" in caplog.text
    assert len(receiver.requests) == 1
    receiver.answer = says(202)
    assert runtime.flush(10)
    assert receiver.accepted.keys() == ids
    assert not runtime.get_metrics().paused


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_wrong_event_does_not_hold_up_the_others(
    status: int, build: Build, receiver: Receiver, tmp_path: Path
) -> None:
    def answer(events: list[dict[str, Any]]) -> tuple[int, dict[str, str], Any]:
        bad = any(event["session_id"] in {"s13", "s40"} for event in events)
        return (status, {}, {"error": {"message": "no"}}) if bad else (202, {}, {})

    receiver.answer = answer
    runtime = build(endpoint=receiver.url)
    send(runtime, range(60))
    assert runtime.flush(10)
    assert len(receiver.accepted) == 58
    aside = put_aside(tmp_path / "spool")
    assert ['"s13"' in aside[0][0], '"s40"' in aside[1][0]] == [True, True]
    assert aside[0][1] == f"HTTP {status}: no"
    metrics = runtime.get_metrics()
    assert (metrics.sent, metrics.put_aside, metrics.folder and metrics.folder.put_aside) == (58, 2, 2)


def test_a_wrong_event_is_counted_once_although_its_batch_is_sent_again(build: Build, receiver: Receiver) -> None:
    failing = [True]

    def answer(events: list[dict[str, Any]]) -> tuple[int, dict[str, str], Any]:
        sessions = {event["session_id"] for event in events}
        if "s0" in sessions:
            return 400, {}, {}
        if "s3" in sessions and failing:
            failing.clear()
            return 500, {}, {}
        return 202, {}, {}

    receiver.answer = answer
    runtime = build(endpoint=receiver.url)
    send(runtime, range(4))
    assert runtime.flush(10)
    assert len(receiver.accepted) == 3
    metrics = runtime.get_metrics()
    assert (metrics.sent, metrics.put_aside) == (3, 1)


def test_what_a_batch_refuses_is_put_aside(build: Build, receiver: Receiver, tmp_path: Path) -> None:
    refused = [{"index": 1, "event_id": None, "code": "invalid_value", "message": "wrong"}, {"index": 99}, "odd"]
    receiver.script = [says(202, body={"refused": refused[:2]})]
    runtime = build(endpoint=receiver.url)
    send(runtime, range(3))
    assert runtime.flush(10)
    assert [reason for _, reason in put_aside(tmp_path / "spool")] == ["invalid_value: wrong"]
    assert runtime.get_metrics().sent == 2


def test_events_of_a_dead_process_are_sent_by_the_next(build: Build, receiver: Receiver) -> None:
    runtime = build()
    ids = send(runtime, range(10))
    runtime.close(0)
    other = build(endpoint=receiver.url)
    assert other.flush(10)
    assert receiver.accepted.keys() == ids
    assert other.get_metrics().waiting_bytes == 0


def test_two_senders_of_a_folder_send_each_event_once(build: Build, receiver: Receiver) -> None:
    runtimes = [build(endpoint=receiver.url, batch_size=5) for _ in range(2)]
    ids = [send(runtime, range(100)) for runtime in runtimes]
    assert all(runtime.flush(10) for runtime in runtimes)
    assert receiver.accepted.keys() == ids[0] | ids[1]
    assert sum(len(events) for _, events in receiver.requests) == 200
    assert sum(runtime.get_metrics().sent for runtime in runtimes) == 200


def test_without_asynchronous_routing_an_await_waits_for_the_server(build: Build, receiver: Receiver) -> None:
    runtime = build(endpoint=receiver.url, async_routing=False, flush_interval_ms=5_000)

    async def one() -> bool:
        captured = await runtime.capture({"session_id": "s1"})
        return captured.settled and captured.event_id in receiver.accepted

    assert asyncio.run(one())
    assert runtime.capture({"session_id": "s2"}).wait()
    assert len(receiver.accepted) == 2


def test_without_asynchronous_routing_another_process_may_hold_the_folder(build: Build, receiver: Receiver) -> None:
    runtimes = [build(endpoint=receiver.url, async_routing=False, flush_interval_ms=5_000) for _ in range(2)]
    settled: list[bool] = []

    def work(runtime: SessionCompletionRuntime) -> None:
        settled.extend(runtime.capture({"session_id": "s"}).wait() for _ in range(10))

    threads = [threading.Thread(target=work, args=(runtime,)) for runtime in runtimes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settled == [True] * 20


def test_a_wait_for_the_server_ends_with_the_timeout(build: Build, receiver: Receiver) -> None:
    receiver.answer = receiver.hang
    runtime = build(endpoint=receiver.url, async_routing=False, timeout_ms=50)

    async def one() -> bool:
        return (await runtime.capture({"session_id": "s1"})).settled

    begun = time.monotonic()
    assert not asyncio.run(one())
    assert not runtime.capture({"session_id": "s2"}).wait()
    assert time.monotonic() - begun < 3


def test_a_pause_of_zero_sends_at_once(build: Build, receiver: Receiver) -> None:
    runtime = build(endpoint=receiver.url, flush_interval_ms=0)
    for number in range(3):
        captured = runtime.capture({"session_id": "s"})
        assert receiver.wait(lambda captured=captured: captured.event_id in receiver.accepted), number


def test_memory_waits_for_a_server_that_comes_back_before_the_end(build: Build, receiver: Receiver) -> None:
    receiver.script = [says(503), says(503)]
    runtime = build(endpoint=receiver.url, mode="memory")
    ids = send(runtime, range(3))
    assert runtime.close(10)
    assert receiver.accepted.keys() == ids


def test_a_program_that_ends_sends_what_waits(receiver: Receiver, tmp_path: Path) -> None:
    program = (
        "from app.capture import SessionCompletionRuntime as R\n"
        "r = R()\n"
        "print(r.capture_many([{'session_id': 's'}] * 25).accepted)\n"
    )
    environment = {
        **os.environ,
        "SCR_ENDPOINT": receiver.url,
        "SCR_API_KEY": "sk-env",
        "SCR_SPOOL_DIR": str(tmp_path / "spool"),
        "SCR_FLUSH_INTERVAL_MS": "60000",
        "SCR_DRAIN_MS": "10000",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, cwd=tmp_path, capture_output=True, timeout=30
    )
    assert (done.stdout, done.stderr) == (b"25\n", b"")
    assert len(receiver.accepted) == 25
    assert receiver.requests[0][0]["Authorization"] == "Bearer sk-env"


def test_a_child_sends_its_own_events_once(build: Build, receiver: Receiver) -> None:
    runtime = build(endpoint=receiver.url)
    ids = send(runtime, range(5))
    assert runtime.flush(10)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        child_ids = send(runtime, range(5))
        drained = runtime.flush(10)
        os.write(tell, ",".join([str(drained), *child_ids]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    drained, *child_ids = os.read(told, 10_000).decode().split(",")
    os.close(told)
    os.close(tell)
    assert drained == "True"
    ids |= send(runtime, range(5)) | set(child_ids)
    assert runtime.flush(10)
    assert receiver.accepted.keys() == ids
    assert len(ids) == 15
    assert sum(len(events) for _, events in receiver.requests) == 15


@pytest.mark.parametrize("endpoint", ["", "gateway:8080", "ftp://host", "http://host:99999", "http://"])
def test_an_endpoint_that_is_none_is_refused_at_the_start(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="SCR_ENDPOINT"):
        Transport(endpoint, "sk-test")


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/events"])
def test_the_address_may_name_the_version(path: str, build: Build, receiver: Receiver) -> None:
    runtime = build(endpoint=receiver.url + path)
    send(runtime, range(1))
    assert runtime.flush(10)
    assert len(receiver.accepted) == 1


@pytest.mark.parametrize("header", ["3", "date", "soon", "nan", "-5", "1e9"])
def test_times_to_wait_come_in_many_forms(header: str, receiver: Receiver) -> None:
    text = formatdate(time.time() + 3, usegmt=True) if header == "date" else header
    receiver.script = [says(503, {"Retry-After": text})]
    transport = Transport(receiver.url, None)
    answer = transport.post([b'{"event_id":"e"}'], 5, compress=False)
    transport.close()
    bounds = {"3": (3, 3), "date": (1, 3), "-5": (0, 0), "1e9": (3_600, 3_600)}.get(header)
    if bounds is None:
        assert answer.retry_after_s is None
    else:
        assert answer.retry_after_s is not None
        assert bounds[0] <= answer.retry_after_s <= bounds[1]


def test_a_connection_that_the_server_closed_is_made_again(receiver: Receiver) -> None:
    receiver.answer = says(202, {"Connection": "close"})
    transport = Transport(receiver.url, None)
    answers = [transport.post([b'{"event_id":"e"}'], 5, compress=False) for _ in range(3)]
    transport.close()
    assert [answer.verdict for answer in answers] == ["taken"] * 3
    assert receiver.connections == 3
