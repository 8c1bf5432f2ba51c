"""The application over a fresh SQLite file, and short ways to use it as a client does."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import httpx2
from agents import Agent
from agents.testing import ScriptedModel, assistant_message, function_call
from fastapi import FastAPI
from pydantic import SecretStr

from app.api.application import create_app
from app.bootstrap import Container
from app.settings import Settings, load_settings
from tests.api.asgi import Request, request


def settings_of(database_url: str, **sections: dict[str, Any]) -> Settings:
    """Settings of a test: nothing slow, nothing from outside."""
    own: dict[str, dict[str, Any]] = {
        "openai": {"api_key": None, "base_url": None, "max_retries": 0},
        "database": {"url": SecretStr(database_url), "sqlite_busy_timeout_s": 2.0},
        "runs": {"poll_s": 0.02, "shutdown_grace_s": 0.0},
        "server": {"host": "127.0.0.1"},
        "gateway": {},
        "agents": {"agents": "", "demo_delay_ms": 0},
    }
    return load_settings(**{name: {**values, **sections.get(name, {})} for name, values in own.items()})


@dataclass(frozen=True)
class Served:
    """The application while it runs."""

    app: FastAPI
    http: httpx2.AsyncClient
    container: Container
    database: str
    """The SQLite file."""

    async def session(self, **body: Any) -> "Chatter":
        """Open a session."""
        reply = await self.http.post("/api/session", json=body)
        assert reply.status_code == 201, reply.text
        opened = reply.json()
        return Chatter(self, opened["sessionId"], opened["conversationId"])

    def request(self, method: str, path: str, **options: Any) -> AbstractAsyncContextManager[Request]:
        """Drive a request by hand."""
        return request(self.app, method, path, **options)

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Look into the database."""
        connection = sqlite3.connect(self.database)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(sql, values)]
        finally:
            connection.close()

    async def change(self, sql: str, *values: Any) -> None:
        """Change the database, from a thread: the application may be writing, and needs this one to end that."""

        def execute() -> None:
            with closing(sqlite3.connect(self.database)) as connection, connection:
                connection.execute(sql, values)

        await asyncio.to_thread(execute)

    def history(self, conversation_id: str) -> list[dict[str, Any]]:
        """The items that the model's history holds."""
        sql = """SELECT m.message_data AS item FROM sdk_agent_session_messages m
                 JOIN agent_conversations c ON c.sdk_session_id = m.session_id WHERE c.id = ? ORDER BY m.id"""
        return [json.loads(row["item"]) for row in self.rows(sql, conversation_id)]


@dataclass(frozen=True)
class Chatter:
    """A client with a session."""

    served: Served
    session_id: str
    conversation_id: str

    async def chat(self, message: Any = "hello", **body: Any) -> httpx2.Response:
        """Send a message and wait for the whole answer."""
        sent = {"sessionId": self.session_id, "message": message, **body}
        return await self.served.http.post("/api/chat", json=sent)

    def stream(self, message: Any = "hello", **body: Any) -> AbstractAsyncContextManager[Request]:
        """Send a message and read the answer as it comes."""
        sent = {"sessionId": self.session_id, "message": message, **body}
        return self.served.request("POST", "/api/chat/stream", json_body=sent)

    def events(self, run_id: str, query: str = "", **headers: str) -> AbstractAsyncContextManager[Request]:
        """Go on with a stream."""
        path = f"/api/runs/{run_id}/events?sessionId={self.session_id}{query}"
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return self.served.request("GET", path, headers=pairs)

    async def ask(self, method: str, path: str) -> httpx2.Response:
        """Call a route that wants the session in its header."""
        return await self.served.http.request(method, path, headers={"X-Session-Id": self.session_id})


@asynccontextmanager
async def serving(settings: Settings, **options: Any) -> AsyncIterator[Served]:
    """Run the application and a client for it."""
    app = create_app(settings=settings, **options)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost:8000") as http,
    ):
        file = settings.database.url.get_secret_value().partition("///")[2]
        yield Served(app, http, app.state.container, file)


def scripted(*steps: Any, name: str = "helper", tools: list[Any] | None = None, **fields: Any) -> Agent[Any]:
    """An agent whose model says what the test wants."""
    return Agent(name=name, model=ScriptedModel(steps), tools=tools or [], **fields)


def says(text: str) -> list[Any]:
    """A step of a script: one answer."""
    return [assistant_message(text)]


def calls(tool: str, arguments: str = "{}", call_id: str = "call_1") -> list[Any]:
    """A step of a script: one tool call."""
    return [function_call(tool, arguments, call_id=call_id)]


class Gate:
    """A tool that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def wait_at_gate(self) -> str:
        """Wait."""
        self.reached.set()
        await self.open.wait()
        return "went through"
