"""What a program may rely on: never an error, never a wait, every event in the spool or in a count."""

import asyncio
import errno
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

import app.capture
from app.capture import Captured, SessionCompletionRuntime
from app.capture_settings import CaptureSettings
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import Scrubbing
from app.infrastructure.completions import spool
from app.infrastructure.completions.spool_reader import SpoolReader
from app.services.session_payloads import session_event
from tests.unit.capture.receiving import until

Build = Callable[..., SessionCompletionRuntime]
ROOT = Path(__file__).parents[3]


def stored(folder: Path) -> list[str]:
    """Return the ids of what a spool holds, each event as the server would read it."""
    reader, ids = SpoolReader(folder), list[str]()
    with reader.locked():
        while batch := reader.next_batch(500, 1 << 20):
            ids += [session_event(msgspec.json.decode(body)).id for body in batch]
            reader.advance()
    reader.close()
    return ids


class Hostile(Mapping[str, Any]):
    """A mapping that fails wherever it is touched."""

    def __getitem__(self, key: str) -> Any:
        raise ZeroDivisionError(key)

    def __iter__(self) -> Iterator[str]:
        raise MemoryError

    def __len__(self) -> int:
        raise RecursionError


class Liar:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class BadText(str):
    __slots__ = ()

    def replace(self, *_: Any) -> Any:
        raise KeyError("text")


def cycle() -> dict[str, Any]:
    event: dict[str, Any] = {"session_id": "s"}
    event["metadata"] = {"itself": event}
    return event


def nested(kind: type) -> Any:
    inner: Any = kind()
    for _ in range(50_000):
        inner = [inner]
    return inner


def horrors() -> list[Any]:
    # Made by each test: even those who collect tests stumble over some of them.
    return [
        *(None, 0, True, "", "text", b"bytes", [], (), {}, object(), object, Exception("no"), iter(()), lambda: None),
        *({"session_id": None}, {"session_id": ""}, {"session_id": "\ud800" * 300}, {"session_id": object()}),
        *({1: 2}, {None: None}, {"session_id": "s", "usage": []}, {"session_id": "s", "metadata": 3}),
        *({"session_id": "s", "timestamp": float("nan")}, {"session_id": "s", "cost_usd": "1e999999999"}),
        *({"session_id": "s", "duration_ms": 10**5_000}, {"session_id": "s", "metadata": {"a": "x" * (1 << 20)}}),
        *(
            Hostile(),
            Liar(),
            cycle(),
            {"session_id": "s", "metadata": nested(list)},
            {"session_id": "s", "version": 1 << 99},
        ),
        *({"session_id": "s", "user": Hostile()}, {"session_id": "s", "outcome": {"status": Hostile()}}),
        *(
            {"session_id": "s", "metadata": {"a": Liar()}},
            {BadText("session_id"): BadText("s"), "metadata": {"a": Hostile()}},
        ),
    ]


@pytest.mark.parametrize("number", range(len(horrors())))
def test_nothing_that_is_offered_raises(number: int, build: Build, tmp_path: Path) -> None:
    runtime, horror = build(), horrors()[number]
    one = runtime.capture(horror)
    assert isinstance(one, Captured)
    assert not one.accepted
    assert str(one.reason).startswith("refused")
    many = runtime.capture_many([{"session_id": "before"}, horror, {"session_id": "after"}])
    assert [captured.accepted for captured in many.events] == [True, False, True]
    metrics = runtime.get_metrics()
    assert (metrics.captured, metrics.refused, metrics.dropped) == (2, 2, 0)
    assert metrics.folder is not None
    assert metrics.folder.refused == 2
    assert stored(tmp_path / "spool") == [many.events[0].event_id, many.events[2].event_id]


@pytest.mark.parametrize("events", [None, 3, object()], ids=["none", "number", "object"])
def test_no_list_of_events_raises(events: Any, build: Build) -> None:
    many = build().capture_many(events)
    assert (many.accepted, many.settled, len(many.events)) == (0, False, 1)


def test_a_broken_log_handler_is_not_the_programs_problem(build: Build) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no log")

    handler = Broken()
    logging.getLogger("app.capture").addHandler(handler)
    try:
        assert build().capture(None).reason == "refused: An event is an object."  # pyright: ignore[reportArgumentType]
    finally:
        logging.getLogger("app.capture").removeHandler(handler)


def test_a_flood_of_faults_is_one_line(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    runtime = build()
    with caplog.at_level(logging.WARNING, "app.capture"):
        for _ in range(100):
            runtime.capture({"session_id": "s", "metadata": {"secret": "hunter2"}, "outcome": "hunter2"})
    assert len(caplog.records) == 1
    assert runtime.get_metrics().refused == 100


def test_what_ends_the_program_goes_on(build: Build) -> None:
    class Interrupting(Hostile):
        def __iter__(self) -> Iterator[str]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build().capture(Interrupting())


def test_threads_share_a_runtime(build: Build, tmp_path: Path, event: dict[str, Any]) -> None:
    runtime, ids = build(), list[str]()

    def work() -> None:
        mine = [runtime.capture(event).event_id for _ in range(2_000)]
        ids.extend(str(one) for one in mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runtime.get_metrics().captured == 16_000
    found = stored(tmp_path / "spool")
    assert len(found) == 16_000
    assert set(found) == set(ids)


def test_tasks_may_await_or_not(build: Build, tmp_path: Path) -> None:
    runtime = build()

    async def work() -> list[Captured]:
        return [await runtime.capture({"session_id": "s"}), runtime.capture({"session_id": "s"})]

    captured = asyncio.run(work())
    assert all(one.settled for one in captured)
    assert stored(tmp_path / "spool") == [one.event_id for one in captured]


@pytest.mark.parametrize("word", ["false", "0", "OFF", " no "])
def test_the_switch_counts_at_once(word: str, build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime = build()
    assert runtime.capture({"session_id": "s"}).accepted
    monkeypatch.setenv("SCR_ENABLED", word)
    assert runtime.capture({"session_id": "s"}) == Captured(None, accepted=False, reason="disabled")
    assert runtime.capture_many([{"session_id": "s"}, None]).accepted == 0  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("SCR_ENABLED", "true")
    assert runtime.capture({"session_id": "s"}).accepted
    monkeypatch.setenv("SCR_ENABLED", "perhaps")
    assert runtime.capture({"session_id": "s"}).accepted
    runtime.set_enabled(False)
    assert not runtime.capture({"session_id": "s"}).accepted
    runtime.set_enabled(True)
    metrics = runtime.get_metrics()
    assert (metrics.captured, metrics.disabled, metrics.refused) == (3, 4, 0)
    assert len(stored(tmp_path / "spool")) == 3


def test_a_process_that_begins_switched_off_makes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCR_ENABLED", "false")
    runtime = SessionCompletionRuntime(spool_dir=tmp_path / "spool")
    assert runtime.capture({"session_id": "s"}).reason == "disabled"
    runtime.close()
    assert not (tmp_path / "spool").exists()


def test_the_files_are_read_again_when_they_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.capture.switch._LOOK_EVERY_NS", 0)
    path = tmp_path / "capture.yaml"
    path.write_text("session_completion_runtime: {capture: {batch_size: 5}}")
    monkeypatch.setenv("SCR_CONFIG", str(path))
    monkeypatch.chdir(tmp_path)
    with SessionCompletionRuntime(spool_dir=tmp_path / "spool") as runtime:
        assert runtime.capture({"session_id": "s"}).accepted
        path.write_text("session_completion_runtime: {capture: {enabled: false}}")
        assert runtime.capture({"session_id": "s"}).reason == "disabled"
        path.write_text("session_completion_runtime: {capture: {enabled: [what]}}")
        assert runtime.capture({"session_id": "s"}).reason == "disabled"
        assert not runtime.reload()
        path.unlink()
        (tmp_path / ".env").write_text("SCR_ENABLED=true\n")
        monkeypatch.delenv("SCR_CONFIG")
        assert runtime.capture({"session_id": "s"}).accepted


def test_a_wrong_setting_ends_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCR_BATCH_SIZE", "many")
    with pytest.raises(ConfigurationError, match="SCR_BATCH_SIZE"):
        SessionCompletionRuntime(spool_dir=tmp_path)


def test_memory_is_bounded_and_counts(build: Build) -> None:
    runtime = build(mode="memory", buffer_max_size=10)
    many = runtime.capture_many([{"session_id": f"s{number}"} for number in range(8)])
    assert many.accepted == 8
    more = [runtime.capture({"session_id": "late"}) for _ in range(5)]
    assert [one.reason for one in more] == [None, None, *["dropped: no room"] * 3]
    metrics = runtime.get_metrics()
    assert (metrics.captured, metrics.dropped, metrics.waiting_events, metrics.utilization_percent) == (10, 3, 10, 100)
    assert runtime.capture_many([{"session_id": "s"}] * 3).accepted == 0
    taken = runtime.take(20)
    assert [b'"s0"' in taken[0], len(taken), runtime.take()] == [True, 10, []]
    assert runtime.capture({"session_id": "again"}).accepted


def test_the_spool_is_bounded_and_counts(build: Build, tmp_path: Path) -> None:
    runtime = build(spool_max_bytes=1 << 16)
    results = [runtime.capture({"session_id": "s", "metadata": {"a": "x" * 900}}) for _ in range(200)]
    accepted = sum(one.accepted for one in results)
    assert results[-1].reason == "dropped: no room"
    assert results[-1].event_id is not None
    metrics = runtime.get_metrics()
    assert (metrics.captured, metrics.dropped) == (accepted, 200 - accepted)
    assert metrics.folder is not None
    assert metrics.folder.dropped == 200 - accepted
    assert 50 < metrics.utilization_percent <= 100
    assert len(stored(tmp_path / "spool")) == accepted


def test_a_folder_that_cannot_be_written_drops_and_counts(build: Build, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file, where the folder should be")
    runtime = build()
    assert str(runtime.capture({"session_id": "s"}).reason).startswith("dropped: ")
    many = runtime.capture_many([{"session_id": "s"}, None, {"session_id": "s"}])  # pyright: ignore[reportArgumentType]
    assert many.accepted == 0
    assert (runtime.get_metrics().dropped, runtime.get_metrics().refused) == (3, 1)
    (tmp_path / "spool").unlink()
    assert runtime.capture({"session_id": "s"}).accepted
    folder = runtime.get_metrics().folder
    assert folder is not None
    assert (folder.dropped, folder.refused) == (3, 1)


def test_a_busy_spool_drops_instead_of_waiting(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LOCK_WAIT_S", 0.01)
    runtime, reasons = build(), list[str | None]()
    writer = runtime._pipeline.writer
    assert writer is not None
    with writer._free():
        thread = threading.Thread(target=lambda: reasons.append(runtime.capture({"session_id": "s"}).reason))
        thread.start()
        thread.join()
    assert reasons == ["dropped: The spool is busy"]
    assert runtime.capture({"session_id": "s"}).accepted
    writer.close()
    folder = runtime.get_metrics().folder
    assert folder is not None
    assert folder.dropped == 1


@pytest.mark.parametrize("mode", ["memory", "spool", "fsync"])
def test_a_signal_that_captures_while_a_capture_is_under_way_returns(mode: str, build: Build, tmp_path: Path) -> None:
    runtime, caught = build(mode=mode, endpoint="http://127.0.0.1:9"), list[Captured]()

    def handler(*_: Any) -> None:
        caught.append(runtime.capture({"session_id": "signal"}))
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # the next one when this is over, or they pile up

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        captured = [runtime.capture({"session_id": "s"}) for _ in range(3_000)]
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # first: the handler would set the timer again
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught
    assert [one.reason for one in [*captured, *caught] if not one.accepted] == []
    if mode == "memory":
        found = [session_event(msgspec.json.decode(body)).id for body in runtime.take(10_000)]
    else:
        found = stored(tmp_path / "spool")
    assert sorted(found) == sorted(str(one.event_id) for one in [*captured, *caught])
    assert runtime.get_metrics().captured == len(found)


def test_a_closed_runtime_takes_nothing_and_says_so(build: Build) -> None:
    runtime = build()
    assert runtime.close(0)
    assert runtime.close(0)
    assert runtime.capture({"session_id": "s"}).reason == "closed"
    assert runtime.get_metrics().dropped == 1


def test_blocks_close(build: Build) -> None:
    async def work() -> None:
        async with build() as runtime:
            assert (await runtime.capture({"session_id": "s"})).accepted
        assert runtime.capture({"session_id": "s"}).reason == "closed"

    asyncio.run(work())
    with build() as runtime:
        pass
    assert runtime.capture({"session_id": "s"}).reason == "closed"


def test_rules_are_applied_before_anything_is_stored(tmp_path: Path) -> None:
    rules = Scrubbing(content=False, patterns=("pii",))
    settings = CaptureSettings(spool_dir=tmp_path / "spool")
    with SessionCompletionRuntime(settings=settings, scrub=rules) as runtime:
        runtime.capture({"session_id": "s", "content": "said", "metadata": {"mail": "ada@example.com"}})
    text = b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.seg"))
    assert b"said" not in text
    assert b"ada@" not in text
    assert b"[redacted:email]" in text


def test_patterns_that_are_set_are_applied(tmp_path: Path) -> None:
    settings = CaptureSettings(spool_dir=tmp_path / "spool", scrub_before_store=("pii",))
    with SessionCompletionRuntime(settings=settings) as runtime:
        runtime.capture({"session_id": "s", "content": "I am ada@example.com"})
    text = b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.seg"))
    assert b"I am [redacted:email]" in text


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_mode_fsync_waits_for_the_disk(many: bool, build: Build) -> None:
    runtime = build(mode="fsync")

    async def work() -> bool:
        captured: Any = (
            runtime.capture_many([{"session_id": "s"}] * 3) if many else runtime.capture({"session_id": "s"})
        )
        return (await captured).settled

    assert asyncio.run(work())
    writer = runtime._pipeline.writer
    assert writer is not None
    assert writer.synced_bytes == writer.end
    assert runtime.capture({"session_id": "s"}).wait(10)


def test_one_sync_is_for_all_who_wait(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, real, syncs = build(mode="fsync"), os.fdatasync, list[int]()
    runtime.capture({"session_id": "first"}).wait(10)
    begun, go_on = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        syncs.append(fd)
        begun.set()
        go_on.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)

    async def work() -> list[Captured]:
        first = runtime.capture({"session_id": "s"})
        await asyncio.to_thread(begun.wait, 10)
        later = [runtime.capture({"session_id": "s"}) for _ in range(50)]
        assert not any(one.settled for one in [first, *later])
        go_on.set()
        return list(await asyncio.gather(*map(asyncio.ensure_future, map(settled, [first, *later]))))

    async def settled(one: Captured) -> Captured:
        return await one

    assert all(one.settled for one in asyncio.run(work()))
    assert len(syncs) == 2


def test_a_sync_that_fails_is_told_and_raises_nothing(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = build(mode="fsync")

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        captured = runtime.capture({"session_id": "s"})
        assert captured.accepted
        assert not captured.wait(10)
    assert runtime.capture({"session_id": "s"}).wait(10)


def test_a_wait_that_is_cancelled_ends_alone(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, go_on, real = build(mode="fsync"), threading.Event(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (go_on.wait(10), real(fd)))

    async def work() -> bool:
        captured = runtime.capture({"session_id": "s"})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await captured
        assert not captured.wait(0)
        go_on.set()
        return (await captured).settled

    assert asyncio.run(work())


def test_a_child_captures_for_itself(build: Build, tmp_path: Path) -> None:
    runtime = build(mode="fsync")
    parent = runtime.capture({"session_id": "parent"})
    parent.wait(10)
    pid = os.fork()
    if pid == 0:
        fresh = runtime.get_metrics().captured == 0
        captured = runtime.capture({"session_id": "child"})
        os._exit(0 if fresh and captured.accepted and captured.wait(10) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert runtime.capture({"session_id": "parent"}).wait(10)
    assert runtime.get_metrics().captured == 2
    assert len(set(stored(tmp_path / "spool"))) == 3


def work_in_pool(_: int) -> list[str | None]:
    assert pooled is not None
    return [pooled.capture({"session_id": "s"}).event_id for _ in range(50)]


pooled: SessionCompletionRuntime | None = None


def test_a_pool_of_processes_captures_every_event_once(build: Build, tmp_path: Path) -> None:
    global pooled
    pooled = build()
    pooled.capture({"session_id": "parent"})
    with multiprocessing.get_context("fork").Pool(3) as pool:
        ids = [one for part in pool.map(work_in_pool, range(9)) for one in part]
    found = stored(tmp_path / "spool")
    assert len(found) == len(set(found)) == 451
    assert set(ids) < set(found)


def test_memory_of_the_parent_is_not_the_childs(build: Build) -> None:
    runtime = build(mode="memory")
    runtime.capture({"session_id": "s"})
    pid = os.fork()
    if pid == 0:
        os._exit(0 if runtime.take() == [] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(runtime.take()) == 1


def test_a_runtime_that_is_lost_leaves_its_events_to_a_relay(tmp_path: Path) -> None:
    captured = SessionCompletionRuntime(settings=CaptureSettings(spool_dir=tmp_path)).capture({"session_id": "s"})
    assert until(lambda: stored(tmp_path) in ([captured.event_id], []))
    reader = SpoolReader(tmp_path)
    with reader.locked():
        reader.sweep()
    reader.close()
    assert list(tmp_path.glob("*.seg")) == []


def test_a_cursor_that_is_no_database_does_not_hurt(build: Build, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "cursor.db").write_text("this is not a database, but long enough to look like one" * 50)
    runtime = build()
    assert runtime.capture({"session_id": "s"}).accepted
    assert runtime.get_metrics().folder is None
    with pytest.raises(sqlite3.DatabaseError):
        SpoolReader(tmp_path / "spool")


def test_the_package_is_light(tmp_path: Path) -> None:
    program = "import sys, app.capture; print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    heavy = [
        "sqlalchemy",
        "fastapi",
        "starlette",
        "agents",
        "openai",
        "langchain",
        "langchain_core",
        "pydantic",
        "yaml",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, *heavy], env=environment, cwd=tmp_path, capture_output=True)
    assert done.stdout == b"[]\n"


def test_the_list_of_names_is_whole() -> None:
    assert all(getattr(app.capture, name) is not None for name in app.capture.__all__)
    with pytest.raises(AttributeError):
        app.capture.nothing  # noqa: B018
