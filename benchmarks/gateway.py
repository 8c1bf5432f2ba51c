"""Server CPU per call of an upstream model: ours, with keys, limits and records, against a minimal pass-through.

With the path of a `litellm` program in the environment variable LITELLM, that proxy is measured in the same rounds; pip
installs it as `litellm[proxy]`, into an environment of its own.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from app.bootstrap import open_container, upgrade_database
from app.domain.models.access import NewKey
from benchmarks.clients import Server
from benchmarks.databases import Database
from benchmarks.gateway_server import gateway_settings
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, p50_ms, ratio_of
from benchmarks.report import print_table
from benchmarks.upstream_server import CHUNKS, FRAMES, MODEL

TARGET = 3.0
MOST_GROWTH_MB = 16.0
AT_ONCE = 8
OURS, PEER, LITELLM = "ours", "peer", "LiteLLM"
PEER_KEY = "sk-bench"
_END = b"\r\n0\r\n\r\n"


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the tables; SQLite only, as the peer writes."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Server.started("benchmarks.upstream_server"))
        upstream_url = f"http://127.0.0.1:{upstream.port}/v1"
        url = await stack.enter_async_context(databases[0].fresh())
        peer_url = await stack.enter_async_context(databases[0].fresh())
        settings = gateway_settings(url, upstream_url)
        await upgrade_database(settings)
        async with open_container(settings) as container:
            key = (await container.keys.create(NewKey(organization_id="bench", name="bench"))).secret
        servers = {
            OURS: Server.started("benchmarks.gateway_server", url, upstream_url),
            PEER: Server.started("benchmarks.pass_through_server", upstream_url, peer_url.partition("///")[2]),
        }
        if program := os.environ.get("LITELLM"):
            servers[LITELLM] = Server.started("benchmarks.gateway_litellm", upstream_url, program)
        started = {name: await stack.enter_async_context(server) for name, server in servers.items()}
        calls = {"plain chat": 16 if scale.is_quick else 400, f"{CHUNKS}-chunk stream": 4 if scale.is_quick else 48}
        rows: list[list[object]] = []
        for name, amount in calls.items():
            rows.append([name, *_figures(await _samples(started, key, name, amount, scale))])
        header = ["call", *(f"ms/call {name}" for name in started), "ours / peer", "target"]
        header += ["ours / LiteLLM"] if LITELLM in started else []
        print_table(
            f"7. Server CPU per call of an upstream model ({AT_ONCE} at once, SQLite, uvloop, httptools)",
            [
                "ours: POST /v1/chat/completions with a key, allowed models, limits, usage, price, and a row,",
                "a completion event and a log line a call; peer: aiohttp on both sides, one key, one row a call.",
                "LiteLLM: its proxy with one key and prices, no limits, and nothing recorded; if LITELLM names it.",
            ],
            [*header, *(f"p50 ms {name}" for name in started)],
            rows,
        )
        await _print_growth(started[OURS], key, 400 if scale.is_quick else 20_000)


async def _samples(
    servers: Mapping[str, Server], key: str, name: str, amount: int, scale: Scale
) -> dict[str, list[Sample]]:
    stream = name.endswith("stream")
    async with AsyncExitStack() as stack:
        contestants: dict[str, Contestant] = {}
        for side, server in servers.items():
            own = key if side == OURS else PEER_KEY
            clients = [await stack.enter_async_context(_connected(server, own)) for _ in range(AT_ONCE)]
            contestants[side] = Contestant(partial(_all, clients, stream=stream, amount=amount), None, server.cpu_s)
        return await in_turns(contestants, scale)


class ChatClient:
    """One kept connection; one call at a time, read to its end and checked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._requests = {stream: _request(key, stream=stream) for stream in (False, True)}

    async def chat(self, *, stream: bool) -> float:
        """Ask; returns how many seconds it took to the last byte."""
        started = time.perf_counter()
        self._writer.write(self._requests[stream])
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(f"the server answered: {head[:300]!r}")
        if stream:
            body = await self._reader.readuntil(_END)
            # LiteLLM gives the chunk with the usage a delta, too.
            if body.count(b'"delta"') not in {CHUNKS, CHUNKS + 1} or b"[DONE]" not in body:
                raise RuntimeError("the stream is not whole")
        else:
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await self._reader.readexactly(length)
        return time.perf_counter() - started

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def _request(key: str, *, stream: bool) -> bytes:
    question = {"role": "user", "content": "Which way does the river go, and what does one see on its banks?"}
    asked = {"model": MODEL, "messages": [question], "stream": stream}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class _connected:  # noqa: N801 - reads as a word in a with statement
    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key

    async def __aenter__(self) -> ChatClient:
        streams = await asyncio.open_connection("127.0.0.1", self._server.port, limit=1 << 20)
        self._client = ChatClient(*streams, self._key)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        self._client.close()


async def _all(clients: Sequence[ChatClient], *, stream: bool = False, amount: int) -> list[float]:
    """Share out the calls; every client has one open at a time."""
    left = iter(range(amount))

    async def work(client: ChatClient) -> list[float]:
        return [await client.chat(stream=stream) for _ in left]

    return [time_s for times in await asyncio.gather(*map(work, clients)) for time_s in times]


def _figures(samples: dict[str, list[Sample]]) -> list[object]:
    ratio = ratio_of(samples[OURS], samples[PEER])
    figures: list[object] = [*map(cpu_ms, samples.values()), str(ratio), ratio.verdict(TARGET)]
    if LITELLM in samples:
        figures.append(str(ratio_of(samples[OURS], samples[LITELLM])))
    return [*figures, *map(p50_ms, samples.values())]


async def _print_growth(ours: Server, key: str, amount: int) -> None:
    """Print how much memory the server takes before and after many calls."""
    resident_mb: Callable[[], float] = partial(_resident_mb, ours.pid)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_connected(ours, key)) for _ in range(AT_ONCE)]
        await _all(clients, amount=min(2_000, amount))  # the allocator settles
        rows: list[list[object]] = []
        first = resident_mb()
        for quarter in range(1, 5):
            await _all(clients, amount=amount // 4)
            rows.append([amount * quarter // 4, resident_mb(), resident_mb() - first])
    verdict = "PASS" if resident_mb() - first <= MOST_GROWTH_MB else "over"
    print_table(
        f"8. Memory of the gateway over {amount} calls",
        [
            f"from {first:.1f} MB after a warm-up; {verdict} <= {MOST_GROWTH_MB} MB",
        ],
        ("calls", "resident MB", "growth MB"),
        rows,
    )


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


assert len(FRAMES) == CHUNKS + 2
