"""Server CPU per streamed delta: ours, which records the run, against a hand-written endpoint that records nothing."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from app.bootstrap import upgrade_database
from benchmarks.clients import Server, StreamClient
from benchmarks.databases import Database
from benchmarks.instant_model import AT_ONCE, DELTAS, ENDPOINT, FEW_DELTAS, PAUSING, SHORT
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, ratio_of
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
    "ms/stream ours",
    "peer",
    "ratio",
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
        "3. Server CPU per streamed delta (uvicorn with uvloop and httptools)",
        [
            "ours: POST /api/chat/stream, each stream a run in a new conversation, recorded, its deltas too;",
            "peer: a minimal FastAPI endpoint over Runner.run_streamed, no database.",
            f"us/delta: what {DELTAS - FEW_DELTAS} more deltas add to a stream; the rest of it is what a run costs.",
            f"ms/stream: a whole stream of {DELTAS} deltas, with its request and its run.",
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
        # Reading from an endpoint takes either side three times as long.
        amount = max(1, scale.streams // 2) if agent == ENDPOINT else scale.streams
        contestants: dict[str, Contestant] = {}
        for prefix, deltas in (("", DELTAS), (SHORT, FEW_DELTAS)):
            few = _Streams(prefix + agent, deltas, own[0])
            contestants[f"{prefix}ours"] = Contestant(
                partial(_all, own, few.of_ours, amount), few.opened(amount), ours.cpu_s
            )
            contestants[f"{prefix}peer"] = Contestant(partial(_all, other, few.of_peer, amount), None, peer.cpu_s)
        return await in_turns(contestants, scale)


class _Streams:
    """Streams of one agent."""

    def __init__(self, agent: str, deltas: int, opener: StreamClient) -> None:
        self._agent = agent
        self._deltas = deltas
        self._opener = opener
        self._sessions: list[str] = []

    def opened(self, amount: int) -> Callable[[], Awaitable[None]]:
        async def open_sessions() -> None:
            self._sessions = [await self._opener.open_session(self._agent) for _ in range(amount)]

        return open_sessions

    async def of_ours(self, client: StreamClient) -> float:
        body = {"sessionId": self._sessions.pop(), "message": "Write."}
        return await client.stream("/api/chat/stream", body, self._deltas)

    async def of_peer(self, client: StreamClient) -> float:
        return await client.stream("/chat/stream", {"agent": self._agent, "message": "Write."}, self._deltas)


async def _all(clients: Sequence[StreamClient], stream: Stream, amount: int) -> list[float]:
    """Share out the streams; every client has one open at a time."""
    left = iter(range(amount))

    async def work(client: StreamClient) -> list[float]:
        return [await stream(client) for _ in left]

    return [time_s for times in await asyncio.gather(*map(work, clients)) for time_s in times]


def _figures(samples: dict[str, list[Sample]]) -> list[object]:
    whole = [samples["ours"], samples["peer"]]
    deltas = [_deltas(samples[side], samples[SHORT + side]) for side in ("ours", "peer")]
    ratio = ratio_of(*deltas)
    per_delta = [cpu_ms(side) * 1000 for side in deltas]
    return [*per_delta, str(ratio), ratio.verdict(TARGET), *map(cpu_ms, whole), str(ratio_of(*whole))]


def _deltas(many: list[Sample], few: list[Sample]) -> list[Sample]:
    """Return what one more delta costs, by round."""
    more = DELTAS - FEW_DELTAS
    return [
        Sample((long.cpu_ms - short.cpu_ms) / more, (long.wall_ms - short.wall_ms) / more)
        for long, short in zip(many, few, strict=True)
    ]
