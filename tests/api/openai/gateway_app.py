"""The application with its gateway to the fake upstream, in process and on a socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response

from app.api.openai.access import Access
from app.api.openai.upstream import upstream_reply
from tests.api.serving import Served
from tests.fakes.openai import FakeOpenAI

CHAT, RESPONSES, EMBEDDINGS = "/chat/completions", "/responses", "/embeddings"
QUESTION = "please count these words"

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain chat": (CHAT, {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": QUESTION}]}),
    "streamed chat": (
        CHAT,
        {"model": "gpt-4.1-mini", "stream": True, "messages": [{"role": "user", "content": QUESTION}]},
    ),
    "plain response": (RESPONSES, {"model": "gpt-4.1-mini", "input": QUESTION}),
    "streamed response": (RESPONSES, {"model": "gpt-4.1-mini", "input": QUESTION, "stream": True}),
    "embeddings": (EMBEDDINGS, {"model": "text-embedding-3-small", "input": QUESTION, "dimensions": 8}),
}
KINDS = list(BODIES)
STREAMED = [kind for kind in KINDS if kind.startswith("streamed")]
PLAIN = [kind for kind in KINDS if kind not in STREAMED]


def url(kind: str) -> str:
    """Where a call of this kind is sent."""
    return f"/gateway{BODIES[kind][0]}"


def body(kind: str, **changes: Any) -> bytes:
    """What it sends, written by hand enough to tell forwarded bytes from rebuilt ones."""
    return json.dumps({**BODIES[kind][1], **changes}, indent=1).encode()


def add_routes(app: FastAPI) -> None:
    """Add a bare route for each path, so that only the gateway is tested here."""

    def route(path: Any) -> Callable[..., Any]:
        async def call(request: Request, access: Access) -> Response:
            sent = await request.body()
            return await upstream_reply(request, sent, None, access, path=path)

        return call

    for path in (CHAT, RESPONSES, EMBEDDINGS):
        app.add_api_route(f"/gateway{path}", route(path), methods=["POST"], response_model=None)


async def serve_gateway(serve: Callable[..., Any], fake: FakeOpenAI, **gateway: Any) -> Served:
    """Serve with the fake as upstream; chat and embedding models are allowed."""
    settings = {"models": "gpt-*, text-embedding-3-small", "flush_ms": 0, **gateway}
    openai = {"api_key": fake.api_key, "base_url": fake.base_url, "api": "responses"}
    served: Served = await serve(openai=openai, gateway=settings)
    add_routes(served.app)
    return served


async def recorded(served: Served, calls: int = 1) -> list[dict[str, Any]]:
    """Wait until that many calls are recorded; each row with its completion event."""
    sql = """SELECT u.*, e.type, e.payload, e.outcome AS session_outcome, e.session_id, e.id AS event_id
             FROM agent_run_usage u JOIN completion_events e ON e.run_id = u.run_id ORDER BY u.created_at"""
    async with asyncio.timeout(10):
        while len(rows := served.rows(sql)) < calls:
            await asyncio.sleep(0.005)
    assert len(rows) == calls == len(served.rows("SELECT * FROM agent_run_usage")), rows
    for row in rows:
        row["payload"] = json.loads(row["payload"])
        assert row["run_id"].startswith("req_")
        assert row["session_id"] == row["run_id"]
        assert row["conversation_id"] is None
        assert row["payload"]["session_type"] == "api"
    return rows


class Connection:
    """One connection to a server of ours, read byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, path: str, data: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        await self._writer.drain()

    async def until(self, text: bytes) -> bytes:
        return await asyncio.wait_for(self._reader.readuntil(text), 10)

    async def to_the_end(self) -> bytes:
        """Read until the server hangs up."""
        return await asyncio.wait_for(self._reader.read(-1), 10)

    async def hang_up(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def on_a_socket(served: Served) -> AsyncIterator[Callable[..., Any]]:
    """Serve the running application on a loopback port; gives a function that connects."""
    config = uvicorn.Config(served.app, port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server.serve())
    connections: list[Connection] = []

    async def connect() -> Connection:
        port = server.servers[0].sockets[0].getsockname()[1]
        connections.append(Connection(*await asyncio.open_connection("127.0.0.1", port)))
        return connections[-1]

    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield connect
    finally:
        for connection in connections:
            await connection.hang_up()
        server.should_exit = True
        await serving
