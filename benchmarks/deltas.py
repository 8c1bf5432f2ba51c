"""Server CPU per streamed delta: ours, which records the run, against a hand-written endpoint that records nothing."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from app.bootstrap import upgrade_database
from benchmarks.clients import Server, StreamClient
from benchmarks.databases import Database
from benchmarks.instant_model import AT_ONCE, DELTAS, ENDPOINT, PAUSING
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, ratio_of, wall_ms
from benchmarks.report import print_table
from benchmarks.systems import settings_for

TARGET = 1.0

Stream = Callable[[StreamClient], Awaitable[float]]

_HEADER = (
    "database",
    "model",
    "streams at once",
    "us/delta ours",
    "peer",
    "ratio",
    "target",
    "deltas/s ours",
    "peer",
)


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for database in databases:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(database.fresh())
            await upgrade_database(settings_for(url))
            endpoint = await stack.enter_async_context(Server.started("benchmarks.endpoint_server"))
            os.environ["BENCHMARK_ENDPOINT"] = f"http://127.0.0.1:{endpoint.port}/v1"  # both servers inherit it
            own, other = Server.started("benchmarks.our_server", url), Server.started("benchmarks.peer_server")
            ours, peer = await asyncio.gather(own.__aenter__(), other.__aenter__())
            stack.push_async_exit(own)
            stack.push_async_exit(other)
            for agent in (ENDPOINT, PAUSING, AT_ONCE):
                for at_once in (1, 16):
                    samples = await _samples(ours, peer, agent, at_once, scale)
                    rows.append([database.name, agent, at_once, *_figures(samples)])
    print_table(
        f"3. Server CPU per streamed delta ({DELTAS} deltas a stream, uvicorn with uvloop and httptools)",
        [
            "ours: POST /api/chat/stream, each stream a run in a new conversation, recorded, its request included;",
            "peer: a minimal FastAPI endpoint over Runner.run_streamed, no database.",
            "endpoint: the SDK's own model over HTTP, from an endpoint that sends as fast as it is read;",
            "pausing: a model within the process, the loop turns before every event; at-once: it never turns.",
        ],
        _HEADER,
        rows,
    )


async def _samples(ours: Server, peer: Server, agent: str, at_once: int, scale: Scale) -> dict[str, list[Sample]]:
    async with AsyncExitStack() as stack:
        own = [await stack.enter_async_context(ours.connected()) for _ in range(at_once)]
        other = [await stack.enter_async_context(peer.connected()) for _ in range(at_once)]
        sessions: list[str] = []
        # Reading from an endpoint takes either side three times as long.
        amount = max(1, scale.streams // 2) if agent == ENDPOINT else scale.streams

        async def open_sessions() -> None:
            sessions[:] = [await own[0].open_session(agent) for _ in range(amount)]

        async def stream_ours(client: StreamClient) -> float:
            return await client.stream("/api/chat/stream", {"sessionId": sessions.pop(), "message": "Write."})

        async def stream_peer(client: StreamClient) -> float:
            return await client.stream("/chat/stream", {"agent": agent, "message": "Write."})

        contestants = {
            "ours": Contestant(partial(_all, own, stream_ours, amount), open_sessions, ours.cpu_s),
            "peer": Contestant(partial(_all, other, stream_peer, amount), None, peer.cpu_s),
        }
        return await in_turns(contestants, scale)


async def _all(clients: Sequence[StreamClient], stream: Stream, amount: int) -> list[float]:
    """Share out the streams; every client has one open at a time."""
    left = iter(range(amount))

    async def work(client: StreamClient) -> list[float]:
        return [await stream(client) for _ in left]

    return [time_s for times in await asyncio.gather(*map(work, clients)) for time_s in times]


def _figures(samples: dict[str, list[Sample]]) -> list[object]:
    ours, peer = samples["ours"], samples["peer"]
    ratio = ratio_of(ours, peer)
    per_delta = [cpu_ms(side) * 1000 / DELTAS for side in (ours, peer)]
    return [*per_delta, str(ratio), ratio.verdict(TARGET), *(DELTAS * 1000 / wall_ms(side) for side in (ours, peer))]
