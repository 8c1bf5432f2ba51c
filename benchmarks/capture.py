"""What capturing an event costs its program, by mode; and what is left after a kill, beside other clients."""

import asyncio
import gc
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal

from aiohttp import web

from app.capture import Captured, SessionCompletionRuntime
from app.capture_settings import CaptureSettings
from benchmarks.capture_client import CLIENTS, EVENT
from benchmarks.databases import Database
from benchmarks.measuring import Scale
from benchmarks.report import print_table

PEERS_PYTHON = "BENCH_PEERS_PYTHON"
"""Variable that names a Python in which `posthog` and `langfuse` are installed; see the table's note."""
TARGET_P50_US, TARGET_PER_S = 20.0, 100_000
MANY = 100
_ROOT = Path(__file__).parents[1]
_MARK = re.compile(rb"bench-\d{8}")
_EVENTS = {"memory": 20_000, "spool": 20_000, "fsync": 300}
_START_S = 60.0


async def measure(_databases: list[Database], scale: Scale) -> None:
    """Print the tables; no database takes part."""
    rows: list[list[object]] = []
    for mode, events in _EVENTS.items():
        rows.append(await asyncio.to_thread(_one_by_one, mode, 20 if scale.is_quick else events, scale.rounds))
    rows.append(await asyncio.to_thread(_together, 10 if scale.is_quick else 500, scale.rounds))
    print_table(
        "Capturing an event in one process",
        [
            "capture() of an event with usage, timings and metadata, one after the other, nobody reads the spool;",
            "fsync: until it is on the disk, alone; capture_many: 100 a call, mode spool. Medians over rounds.",
            "kB kept: Python memory that is still held after all of a round's events.",
        ],
        ("mode", "p50 us", "p95", "p99", "events/s", "kB kept", "target"),
        rows,
    )
    await _print_peers(200 if scale.is_quick else 20_000)


@asynccontextmanager
async def _receiver() -> AsyncIterator[tuple[str, set[bytes]]]:
    """Give the URL of a server that takes anything, and the marks of the events that it was sent."""
    marks: set[bytes] = set()

    async def take(request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp undoes the compression that the headers tell of
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        elif request.headers.get("content-encoding") == "deflate":
            body = zlib.decompress(body)
        marks.update(_MARK.findall(body))
        return web.json_response({"status": "Ok", "refused": []})

    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", marks
    finally:
        await runner.cleanup()


def _opened(folder: str, mode: Literal["memory", "spool", "fsync"]) -> SessionCompletionRuntime:
    settings = CaptureSettings(mode=mode, spool_dir=Path(folder), buffer_max_size=1 << 20, endpoint=None)
    return SessionCompletionRuntime(settings=settings)


def _one_by_one(mode: Any, events: int, rounds: int) -> list[object]:
    times_ns: list[list[int]] = []
    rates: list[float] = []
    kept_kb = 0.0
    for number in range(rounds + 1):  # the first one warms up, and shows what memory it takes
        with tempfile.TemporaryDirectory(prefix="capture-") as folder:
            runtime = _opened(folder, mode)
            if not number:
                kept_kb = _kept_kb(lambda: [runtime.capture(EVENT) for _ in range(events)][-1:])  # noqa: B023
                runtime.close(0)
                continue
            gc.collect()
            spent: list[int] = []
            began = time.perf_counter()
            for _ in range(events):
                started = time.perf_counter_ns()
                taken = runtime.capture(EVENT)
                if mode == "fsync":
                    taken.wait()
                spent.append(time.perf_counter_ns() - started)
            rates.append(events / (time.perf_counter() - began))
            times_ns.append(sorted(spent))
            _check([taken], runtime, events)
            runtime.close(0)
    p50, p95, p99 = (
        median(spent[int(share * (events - 1))] for spent in times_ns) / 1000 for share in (0.5, 0.95, 0.99)
    )
    target = f"{'PASS' if p50 <= TARGET_P50_US else 'over'} <= {TARGET_P50_US:.0f} us" if mode == "spool" else ""
    return [mode, p50, p95, p99, median(rates), kept_kb, target]


def _kept_kb(work: Callable[[], Sequence[Captured]]) -> float:
    gc.collect()
    tracemalloc.start()
    work()
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept / 1000


def _together(calls: int, rounds: int) -> list[object]:
    rates: list[float] = []
    per_event_us: list[list[float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="capture-") as folder:
            runtime = _opened(folder, "spool")
            batch = [EVENT] * MANY
            gc.collect()
            spent: list[float] = []
            began = time.perf_counter()
            for _ in range(calls):
                started = time.perf_counter_ns()
                taken = runtime.capture_many(batch)
                spent.append((time.perf_counter_ns() - started) / 1000 / MANY)
            rates.append(calls * MANY / (time.perf_counter() - began))
            per_event_us.append(sorted(spent))
            _check(taken.events, runtime, calls * MANY)
            runtime.close(0)
    p50, p95, p99 = (median(spent[int(share * (calls - 1))] for spent in per_event_us) for share in (0.5, 0.95, 0.99))
    rate = median(rates)
    verdict = f"{'PASS' if rate >= TARGET_PER_S else 'below'} >= {TARGET_PER_S}/s"
    return [f"capture_many, {MANY} a call", p50, p95, p99, rate, "", verdict]


def _check(taken: Sequence[Captured], runtime: SessionCompletionRuntime, events: int) -> None:
    if not all(one.accepted for one in taken) or runtime.get_metrics().captured != events:
        raise RuntimeError(f"not every event was taken: {taken[-1]}")


async def _print_peers(events: int) -> None:
    rows: list[list[object]] = []
    notes = [f"{events} events as fast as the client takes them, then SIGKILL, then a restart of the same program."]
    peers = os.environ.get(PEERS_PYTHON)
    if not peers:
        notes.append(f"Others: {PEERS_PYTHON}=PYTHON, of an environment with `pip install posthog langfuse`.")
    for name in CLIENTS:
        python = sys.executable if name == "ours" else peers
        if python:
            rows.append(await _killed(name, python, events))
    header = ("client", "p50 us", "p95", "p99", "events/s accepted", "arrived", "lost")
    print_table("What a kill loses, beside other clients", notes, header, rows)


async def _killed(name: str, python: str, events: int) -> list[object]:
    async with _receiver() as (url, marks):
        with tempfile.TemporaryDirectory(prefix="capture-") as folder:
            told = await _client(name, python, url, events, folder)
            await _client(name, python, url, 0, folder)
    figures = json.loads(told)
    shown = [figures[f"p{share}_us"] for share in (50, 95, 99)]
    return [name, *shown, events / figures["seconds"], len(marks), events - len(marks)]


async def _client(name: str, python: str, url: str, events: int, folder: str) -> bytes:
    # Ours is a package of this checkout; others get the one file only.
    script = _ROOT / "benchmarks" / "capture_client.py"
    environment = {**os.environ, "PYTHONPATH": str(_ROOT) if name == "ours" else "", "SCR_TIMEOUT_MS": "5000"}
    process = await asyncio.create_subprocess_exec(
        *(python, str(script), name, url, str(events), folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
    )
    async with asyncio.timeout(_START_S * 4):
        told, _ = await process.communicate()
    if process.returncode != (-9 if events else 0):
        raise RuntimeError(f"the client '{name}' ended with {process.returncode}")
    return told
