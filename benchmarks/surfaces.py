"""Server CPU per agent run: over OpenAI's Responses API against the chat routes of our own, on one server."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.bootstrap import open_container, upgrade_database
from app.domain.models.access import NewKey
from benchmarks.clients import Server
from benchmarks.databases import Database
from benchmarks.instant_model import ANSWER, AT_ONCE, DELTAS, PAUSING
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, p50_ms, ratio_of
from benchmarks.our_server import SERVED
from benchmarks.report import print_table
from benchmarks.systems import settings_for

TARGET = 1.15
CONNECTIONS = 4
_PLAIN_RUNS = 32
_STREAMED_RUNS = 12
_HEADER = (
    "database",
    "run",
    "ms/run /v1/responses",
    "/api/chat",
    "ratio",
    "target",
    "p50 ms /v1/responses",
    "/api/chat",
)
_END = b"\r\n0\r\n\r\n"
_INPUT = "Which way does the river go, and what does one see on its banks?"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of run, the same over both surfaces."""

    agent: str
    amount: int
    """Runs a round."""
    deltas: int = 0
    """Of its stream; 0: it is not streamed."""
    is_opened_before: bool = True
    """Whether the Responses API is given a conversation, as the other surface always is."""


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    kinds = {
        "plain": Kind(SERVED, 4 if scale.is_quick else _PLAIN_RUNS),
        "plain, opened by the call": Kind(SERVED, 4 if scale.is_quick else _PLAIN_RUNS, is_opened_before=False),
        f"{DELTAS} deltas, at once": Kind(AT_ONCE, 2 if scale.is_quick else _STREAMED_RUNS, DELTAS),
        f"{DELTAS} deltas, pausing": Kind(PAUSING, 2 if scale.is_quick else _STREAMED_RUNS, DELTAS),
    }
    rows: list[list[object]] = []
    for database in databases:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(database.fresh())
            settings = settings_for(url)
            await upgrade_database(settings)
            async with open_container(settings) as container:
                key = (await container.keys.create(NewKey(organization_id="bench", name="bench"))).secret
            server = await stack.enter_async_context(Server.started("benchmarks.our_server", url))
            for name, kind in kinds.items():
                rows.append([database.name, name, *_figures(await _samples(server, key, kind, scale))])
    print_table(
        f"9. Server CPU per agent run by surface ({CONNECTIONS} at once, uvicorn with uvloop and httptools)",
        [
            "Each run in a conversation of its own, with a key, recorded in full. POST /api/chat[/stream] runs in a",
            "session that was opened before, outside of the measured time; POST /v1/responses in a conversation that",
            "was. 'opened by the call': it names none, and the conversation that it opens is in its time.",
        ],
        _HEADER,
        rows,
    )


async def _samples(server: Server, key: str, kind: Kind, scale: Scale) -> dict[str, list[Sample]]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_connected(server, key)) for _ in range(CONNECTIONS)]
        places: list[str | None] = []

        async def open_sessions() -> None:
            places[:] = [await clients[0].open_session(kind.agent) for _ in range(kind.amount)]

        async def open_conversations() -> None:
            before = kind.is_opened_before
            places[:] = [await clients[0].open_conversation() if before else None for _ in range(kind.amount)]

        contestants = {
            "responses": Contestant(
                partial(_all, clients, SurfaceClient.respond, kind, places), open_conversations, server.cpu_s
            ),
            "chat": Contestant(partial(_all, clients, SurfaceClient.chat, kind, places), open_sessions, server.cpu_s),
        }
        return await in_turns(contestants, scale)


class SurfaceClient:
    """One kept connection; one run at a time, read to its end and checked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key

    async def open_session(self, agent: str) -> str:
        """Open a session of ours, which has a conversation of its own."""
        return json.loads(await self._post("/api/session", {"agent": agent}))["sessionId"]

    async def open_conversation(self) -> str:
        """Open a conversation by OpenAI's own route."""
        return json.loads(await self._post("/v1/conversations", {}))["id"]

    async def respond(self, kind: Kind, conversation_id: str | None) -> float:
        """Run over the Responses API; returns how many seconds it took to the last byte."""
        asked = {"model": kind.agent, "input": _INPUT, "stream": kind.deltas > 0, "conversation": conversation_id}
        return await self._timed("/v1/responses", asked, kind, b'"type":"response.output_text.delta"')

    async def chat(self, kind: Kind, session_id: str | None) -> float:
        """Run over our own routes; returns how many seconds it took to the last byte."""
        path = "/api/chat/stream" if kind.deltas else "/api/chat"
        return await self._timed(path, {"sessionId": session_id, "message": _INPUT}, kind, b'"delta":')

    async def _timed(self, path: str, asked: Mapping[str, Any], kind: Kind, delta: bytes) -> float:
        started = time.perf_counter()
        body = await self._post(path, asked)
        elapsed_s = time.perf_counter() - started
        whole = body.count(delta) == kind.deltas if kind.deltas else ANSWER.encode() in body
        if not whole or b"completed" not in body:
            raise RuntimeError(f"the run is not whole: {body.count(delta)} deltas, {body[:300]!r}")
        return elapsed_s

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _post(self, path: str, asked: Mapping[str, Any]) -> bytes:
        data = json.dumps(asked).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._writer.write(head.encode() + data)
        got = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, length = got.partition(b"content-length:")
        body = await (self._reader.readexactly(int(length.partition(b"\r\n")[0])) if length else self._to_end())
        if not got.startswith(b"http/1.1 2"):
            raise RuntimeError(f"the server answered: {got[:100]!r} {body[:300]!r}")
        return body

    async def _to_end(self) -> bytes:
        parts = [await self._reader.read(65_536)]
        while not (parts[-1].endswith(_END) or b"".join(parts[-3:]).endswith(_END)):
            parts.append(await self._reader.read(65_536))
            if not parts[-1]:
                raise RuntimeError("the server broke the stream off")
        return b"".join(parts)


class _connected:  # noqa: N801 - reads as a word in a with statement
    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key

    async def __aenter__(self) -> SurfaceClient:
        streams = await asyncio.open_connection("127.0.0.1", self._server.port, limit=1 << 20)
        self._client = SurfaceClient(*streams, self._key)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        self._client.close()


Run = Callable[[SurfaceClient, Kind, str | None], Awaitable[float]]


async def _all(clients: Sequence[SurfaceClient], run: Run, kind: Kind, places: list[str | None]) -> list[float]:
    """Share out the runs; every client has one at a time."""

    async def work(client: SurfaceClient) -> list[float]:
        times: list[float] = []
        while places:
            times.append(await run(client, kind, places.pop()))
        return times

    return [time_s for times in await asyncio.gather(*map(work, clients)) for time_s in times]


def _figures(samples: dict[str, list[Sample]]) -> list[object]:
    responses, chat = samples["responses"], samples["chat"]
    ratio = ratio_of(responses, chat)
    figures: list[object] = [cpu_ms(responses), cpu_ms(chat), str(ratio), ratio.verdict(TARGET)]
    return [*figures, p50_ms(responses), p50_ms(chat)]
