"""The fake OpenAI server: a real HTTP server on 127.0.0.1, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import uvicorn

from .application import Api, Group
from .backend import DEFAULT_MODELS, Backend
from .delivery import Hangs, Wiring
from .faults import Cut, Fail, Faults, Garbage, Hang
from .recorder import RecordedRequest, Recorder
from .replies import Scripted

_ERROR_TYPES: Mapping[int, str] = {
    401: "invalid_request_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_ERROR_CODES: Mapping[int, str] = {401: "invalid_api_key", 429: "rate_limit_exceeded", 500: "server_error"}


class FakeOpenAI:
    """An OpenAI API on a free loopback port, for as long as the `with` block lasts.

    Works as `with` and as `async with`; every method may be called from any thread, while the server runs. It refuses
    what the API refuses. Leaving the block ends all requests, closes all sockets and ends the thread.

    Args:
        api_key: the only key it takes.
        models: the ids of its models; the default has chat and embedding models of OpenAI.
        responses, chat, conversations: whether it has that group of routes; without, they are 404.
    """

    def __init__(
        self,
        *,
        api_key: str = "sk-fake-key-of-the-tests",
        models: Iterable[str] = DEFAULT_MODELS,
        responses: bool = True,
        chat: bool = True,
        conversations: bool = True,
    ) -> None:
        self.api_key = api_key
        enabled: dict[Group, bool] = {
            "responses": responses,
            "chat": chat,
            "conversations": conversations,
            "catalog": True,
        }
        self._groups: frozenset[Group] = frozenset(group for group, on in enabled.items() if on)
        self._backend = Backend(models)
        self._recorder = Recorder()
        self._faults = Faults()
        self._base_url: str | None = None
        self._running: _Running | None = None

    # --- life ---

    def __enter__(self) -> FakeOpenAI:
        """Start, and return when requests are served: some milliseconds."""
        if self._running is not None:
            raise RuntimeError("this fake server is already running")
        self._running = _Running(self._backend, self._recorder, self._faults, self.api_key, self._groups)
        self._running.start()
        self._base_url = f"http://127.0.0.1:{self._running.port}/v1"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and return when every socket is closed."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    async def __aenter__(self) -> FakeOpenAI:
        """Start (see `__enter__`)."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop without blocking the loop, so that a client in it can see its connection end."""
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`, also after the end (nothing listens there any more)."""
        if self._base_url is None:
            raise RuntimeError("the fake server has not been started: use it in a `with` block")
        return self._base_url

    # --- what the model says ---

    def script(self, replies: Iterable[Scripted]) -> None:
        """Queue replies for the next model calls (`/responses` and `/chat/completions` that pass all rules).

        A request that hangs takes none before its release; one that is cut has taken its own.
        """
        self._backend.script(replies)

    @property
    def scripted_left(self) -> int:
        """How many queued replies nobody has taken."""
        return self._backend.scripted_left

    # --- faults ---

    def fail_next(
        self,
        status: int = 500,
        *,
        code: str | None = None,
        message: str = "The fake server was told to fail.",
        error_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        times: int = 1,
        path: str | None = None,
    ) -> None:
        """Answer the next requests with this error. `path`: only requests whose path ends with it.

        `code` and `error_type` None are what the API says with that status. Unauthorized requests take no fault.
        """
        kind = error_type or _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        fault = Fail(status, code or _ERROR_CODES.get(status), message, kind, dict(headers or {}))
        self._faults.add(fault, path=path, times=times)

    def garbage_next(self, *, times: int = 1, path: str | None = None) -> None:
        """Answer the next requests with 200, `application/json` and a body that is none."""
        self._faults.add(Garbage(), path=path, times=times)

    def hang_next(self, *, after_events: int | None = None, times: int = 1, path: str | None = None) -> None:
        """Take the next requests and do not answer, until the client leaves, `release()` or the end.

        `after_events` lets a streamed answer begin: that many events come, then nothing.
        """
        self._faults.add(Hang(after_events), path=path, times=times)

    def release(self) -> None:
        """Let all requests that hang now go on as if nothing had been."""
        if self._running is not None:
            self._running.call(self._running.hangs.release)

    def cut_next(self, after_events: int = 0, *, stored: bool = False, times: int = 1, path: str | None = None) -> None:
        """Close the socket of the next requests after that many stream events, or in the middle of a plain body.

        `stored`: what the model said is kept (in the conversation, for `GET`), though the client never saw its end.
        """
        self._faults.add(Cut(after_events, stored), path=path, times=times)

    def slow(self, delay_s: float, *, each_event: bool = False) -> None:
        """Delay the begin of every answer from now on, and with `each_event` every stream event; 0 ends it."""
        self._faults.slow(delay_s, each_event=each_event)

    @property
    def faults_left(self) -> int:
        """How many queued faults have not happened."""
        return self._faults.left

    # --- what came in ---

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests so far, oldest first, as snapshots."""
        return self._recorder.requests

    def count(self, path: str, *, method: str | None = None) -> int:
        """How many requests came to exactly this path; `/responses` and `/v1/responses` are the same."""
        wanted = path if path.startswith("/v1/") else f"/v1{path}"
        return sum(request.path == wanted and method in (None, request.method) for request in self._recorder.requests)

    def wait_until(
        self, holds: Callable[[Sequence[RecordedRequest]], bool], *, timeout_s: float = 5.0
    ) -> list[RecordedRequest]:
        """Block until `holds(requests)`, then return them; TimeoutError after `timeout_s`."""
        self._recorder.wait_until(holds, timeout_s)
        return self._recorder.requests

    async def until(
        self, holds: Callable[[Sequence[RecordedRequest]], bool], *, timeout_s: float = 5.0
    ) -> list[RecordedRequest]:
        """`wait_until` for async tests: the loop goes on meanwhile."""
        return await asyncio.to_thread(self.wait_until, holds, timeout_s=timeout_s)

    # --- what is stored ---

    def conversation_items(self, conversation_id: str) -> list[dict[str, Any]]:
        """The items of a conversation, oldest first; empty when there is no such conversation."""
        conversation = self._backend.stores.conversations.get(conversation_id)
        return list(conversation.items) if conversation is not None else []

    @property
    def conversation_ids(self) -> list[str]:
        """The ids of all conversations that are not deleted, oldest first."""
        return list(self._backend.stores.conversations)


class _Running:
    """The thread of a started server. uvicorn's own loop is not used: it polls ten times a second."""

    def __init__(
        self, backend: Backend, recorder: Recorder, faults: Faults, api_key: str, groups: frozenset[Group]
    ) -> None:
        self.hangs = Hangs()
        wiring = Wiring(recorder, faults, self.hangs, self._close_connection)
        app = Api(backend, wiring, api_key).build(groups)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            # uvicorn's logging set-up is global to the process; the tests' own stays as it is.
            log_config=None,
            timeout_keep_alive=60,
        )
        self._server = uvicorn.Server(config)
        # Without the protocol asyncio does not know that this is TCP and leaves Nagle's delay on: 40 ms a reply.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fake openai :{self.port}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the fake server did not start")

    def stop(self) -> None:
        if self._stop is not None:
            self.call(self._stop.set)
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the fake server did not stop")

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the server's thread, soon."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = self._server
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets=[self._socket])
        await server.on_tick(0)  # sets the headers that every reply carries
        self._ready.set()
        await self._stop.wait()
        self.hangs.stop()
        for listener in server.servers:
            listener.close()
        self._socket.close()
        await self._drain()

    async def _drain(self) -> None:
        """Let the hanging end, then close what is left."""
        state = self._server.server_state
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=0.05)
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=1)
        for connection in list(state.connections):
            connection.transport.abort()
        while state.connections:
            await asyncio.sleep(0)

    def _close_connection(self, client: tuple[str, int]) -> None:
        for connection in list(self._server.server_state.connections):
            # Only the WebSocket half of this union has no address, and there is none here.
            if getattr(connection, "client", None) == tuple(client):
                connection.transport.close()
