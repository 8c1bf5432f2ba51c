"""Ports of their own for those who watch: `/metrics` on one, `/health` and `/readyz` on another, or all on the same."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from app.domain.errors import ConfigurationError
from app.domain.loopback import is_loopback
from app.domain.metrics_ports import Monitoring


class Readiness(Protocol):
    """Whether the process can take work."""

    @property
    def ready(self) -> bool:
        """Whether it can."""
        ...

    @property
    def database(self) -> str:
        """How the database is, in a word."""
        ...


Ready = Callable[[], Awaitable[Readiness]]
_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEALTH_PATHS: Final = ("/health", "/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where to listen; None: not. 0: any free port."""

    host: str
    metrics: int | None = None
    health: int | None = None


@asynccontextmanager
async def open_listeners(monitoring: Monitoring, ready: Ready, ports: Ports) -> AsyncGenerator[dict[str, int]]:
    """Listen until the end of the block; gives the port of each path.

    They ask for no key: whoever reaches the port may read. On a loopback host, requests that name another one are
    refused, as a page of a stranger sends them after it has pointed its own name here.

    Raises:
        ConfigurationError: a port cannot be listened on.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=await monitoring.page(), headers={"content-type": monitoring.content_type})

    async def health(request: web.Request) -> web.Response:
        if request.path != "/readyz":
            return _json({"status": "ok"}, 200)
        state = await ready()
        return _json({"ready": state.ready, "database": state.database}, 200 if state.ready else 503)

    sites: list[tuple[str, int, dict[str, _Answer]]] = []
    if ports.metrics is not None:
        sites.append(("metrics_port", ports.metrics, {"/metrics": metrics}))
    if ports.health is not None:
        answers: dict[str, _Answer] = dict.fromkeys(HEALTH_PATHS, health)
        if ports.health and ports.health == ports.metrics:
            sites[0][2].update(answers)
        else:
            sites.append(("health_check_port", ports.health, answers))
    opened: dict[str, int] = {}
    async with AsyncExitStack() as stack:
        for name, port, answers in sites:
            app = web.Application(middlewares=[_loopback_only] if is_loopback(ports.host) else [])
            app.add_routes([web.get(path, answer) for path, answer in answers.items()])
            runner = web.AppRunner(app, access_log=None, handle_signals=False)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            try:
                await web.TCPSite(runner, ports.host, port).start()
            except OSError as error:
                message = f"monitoring.{name}: cannot listen on {ports.host}:{port}. Choose another port, or none."
                raise ConfigurationError(message) from error
            opened |= dict.fromkeys(answers, int(runner.addresses[0][1]))
        yield opened


def _json(body: dict[str, str | bool], status: int) -> web.Response:
    return web.Response(text=json.dumps(body), status=status, content_type="application/json")


@web.middleware
async def _loopback_only(request: web.Request, handler: _Answer) -> web.StreamResponse:
    if not is_loopback(request.url.host or ""):
        raise web.HTTPMisdirectedRequest(text="This port answers on this machine only.")
    return await handler(request)
