"""A server in a process of its own, its CPU clock, and a client that does as little as possible."""

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.instant_model import DELTAS, PACED_DELTAS

_START_S = 120.0
_END = b"\r\n0\r\n\r\n"
_DELTA = b'"delta":'


class StreamClient:
    """One kept connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def open_session(self, agent: str) -> str:
        """Open a session of ours, which has a conversation of its own."""
        self._send("/api/session", {"agent": agent})
        head = await self._reader.readuntil(b"\r\n\r\n")
        _check(head, 201)
        return json.loads(await self._reader.readexactly(_length(head)))["sessionId"]

    async def start_run(self, body: dict[str, Any]) -> str:
        """Start a run in the background; returns its id."""
        self._send("/api/runs", body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        _check(head, 202)
        return json.loads(await self._reader.readexactly(_length(head)))["runId"]

    async def begin_to_read(self, run_id: str, session_id: str) -> None:
        """Ask for a run's events from the first on."""
        path = f"/api/runs/{run_id}/events?sessionId={session_id}"
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        _check(await self._reader.readuntil(b"\r\n\r\n"), 200)

    async def read_to_end(self) -> float:
        """Read a run's events to the last one; returns how many milliseconds the run says it took."""
        body = await self._to_end()
        if (told := body.count(_DELTA)) != PACED_DELTAS:
            raise RuntimeError(f"{told} deltas came instead of {PACED_DELTAS}")
        _, _, last = body.rpartition(b"event: run.completed")
        return float(last.partition(b'"durationMs":')[2].partition(b",")[0].rstrip(b"}\r\n 0"))

    async def stream(self, path: str, body: dict[str, Any], deltas: int = DELTAS) -> float:
        """Read a stream of so many deltas to its end; returns how many seconds it took."""
        started = time.perf_counter()
        self._send(path, body)
        _check(await self._reader.readuntil(b"\r\n\r\n"), 200)
        told = (await self._to_end()).count(_DELTA)
        elapsed_s = time.perf_counter() - started
        if told != deltas:
            raise RuntimeError(f"{told} deltas came instead of {deltas}")
        return elapsed_s

    async def _to_end(self) -> bytes:
        parts = [await self._reader.read(65_536)]
        while not (parts[-1].endswith(_END) or b"".join(parts[-3:]).endswith(_END)):
            parts.append(await self._reader.read(65_536))
            if not parts[-1]:
                raise RuntimeError("the server broke the stream off")
        return b"".join(parts)

    def _send(self, path: str, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


class Server:
    """One of the two servers, in a process of its own."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port
        self._clock = (
            ~pid << 3
        ) | 2  # what clock_getcpuclockid(3) returns on Linux: CPU time of all its threads, in ns

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used."""
        return time.clock_gettime(self._clock)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[StreamClient]:
        """Give a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            yield StreamClient(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    @classmethod
    @asynccontextmanager
    async def started(cls, module: str, *arguments: str) -> AsyncIterator["Server"]:
        """Start one and wait until it listens; it is stopped at the end."""
        port = _free_port()
        command = (sys.executable, "-m", module, str(port), *arguments)
        # Without a key the SDK exports no traces.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        with tempfile.TemporaryFile() as log:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=Path(__file__).parents[1], env=environment, stdout=log, stderr=log
            )
            try:
                await _listening(process, port, log)
                yield cls(process.pid, port)
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int, log: Any) -> None:
    deadline = time.monotonic() + _START_S
    while process.returncode is None and time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
    log.seek(0)
    raise RuntimeError(f"the server did not start:\n{log.read()[-3000:].decode(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _length(head: bytes) -> int:
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(length.partition(b":")[2])


def _check(head: bytes, status: int) -> None:
    if not head.startswith(b"HTTP/1.1 %d " % status):
        raise RuntimeError(f"the server answered: {head[:300]!r}")
