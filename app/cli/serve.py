"""`durable-agents serve`: the HTTP server."""

import asyncio
import importlib
import math
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
import typer

from app.cli.failures import CommandFailed
from app.cli.options import Place, command
from app.cli.output import notice
from app.cli.system import import_from_working_directory, settings_of
from app.domain.errors import AppError

if TYPE_CHECKING:
    import uvicorn

    from app.bootstrap import Container
    from app.capture_settings import CaptureConfiguration
    from app.settings import Settings

log = structlog.get_logger(__name__)

APPLICATION: Final = "app.api.application"
"""Imported by its name: the surfaces do not know each other."""

BACKLOG: Final = 2048
"""Connections that wait; uvicorn's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the server listens and which agents it serves."""

    host: Annotated[str | None, typer.Option("--host", help="Address to listen on, instead of HOST.")] = None
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65_535, help="Port, instead of PORT; 0 for any free one.")
    ] = None
    agents: Annotated[
        str | None,
        typer.Option(
            "--agents",
            metavar="MODULE:NAME,...",
            help="Agents to serve, instead of APP_AGENTS: Agent, AgentSpec, lists.",
        ),
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "serve")(serve)


def serve(server: Server, place: Place) -> None:
    """Serve the agents over HTTP until SIGINT or SIGTERM; running runs then get their time to end.

    SIGHUP reads the SCR_* settings and their file again.
    """
    export_settings(server, place)
    settings = settings_of(place)
    set_up_server_logs(settings)
    import_from_working_directory()
    with bound_socket(settings.server.host, settings.server.port) as listening:
        url = url_of(settings.server.host, listening)

        def tell(container: "Container") -> None:
            notice(f"Serving {names_of(container)} at {url} with {model_of(container)}")

        serve_process(uvicorn_config(settings), settings, [listening], tell, reloads=True)


def set_up_server_logs(settings: "Settings", told: "CaptureConfiguration | None" = None) -> None:
    """Set up logging for a server; where LOG_LEVEL is not set, the level of the `SCR_*` settings counts.

    `told`: those settings; None reads them.

    Raises:
        ConfigurationError: one of them is wrong.
    """
    from app.bootstrap import set_up_logs  # noqa: PLC0415 - see app.cli.system
    from app.capture_settings import load_capture  # noqa: PLC0415

    level = (told or load_capture()).monitoring.log_level
    if level is not None and "log_level" not in settings.server.model_fields_set:
        settings = settings.model_copy(update={"server": settings.server.model_copy(update={"log_level": level})})
    set_up_logs(settings)


def export_settings(server: Server, place: Place) -> None:
    """Put what the command line says into the environment: the application reads its settings there.

    The processes that `dev` starts inherit it.
    """
    given: dict[str, str | None] = {
        "HOST": server.host,
        "PORT": None if server.port is None else str(server.port),
        "APP_AGENTS": server.agents,
        "DATABASE_URL": place.database,
        "LOG_LEVEL": "debug" if place.debug else None,
    }
    os.environ.update({name: value for name, value in given.items() if value is not None})


def uvicorn_config(settings: "Settings", **options: Any) -> "uvicorn.Config":
    """Return how uvicorn serves the application: with httptools, and uvloop where that is installed."""
    import uvicorn  # noqa: PLC0415 - see app.cli.system

    from app.cli.connections import connections  # noqa: PLC0415

    made: Any = connections(settings.server.head_timeout_s)  # uvicorn only ever calls it
    return uvicorn.Config(
        f"{APPLICATION}:create_app",
        factory=True,
        http=made,
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,  # ours stays as it is
        access_log=False,  # it writes query strings, which may hold session ids; the application logs every request
        server_header=False,
        # Replies that are open then are cut; their runs go on, or are handed back when the application stops.
        timeout_graceful_shutdown=max(1, math.ceil(settings.runs.shutdown_grace_s)),
        **options,
    )


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens: who comes while the server starts, or starts anew, waits instead of being refused.

    Raises:
        CommandFailed: the address cannot be used.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise CommandFailed(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error
    listening.set_inheritable(True)
    return listening


def url_of(host: str, listening: socket.socket) -> str:
    """Return the server's address as a URL, with the port it really has."""
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve_process(
    config: "uvicorn.Config",
    settings: "Settings",
    sockets: Sequence[socket.socket],
    tell: "Callable[[Container], None]",
    *,
    reloads: bool = False,
) -> None:
    """Check that the system can start and tell about it, then serve in this process until a signal ends it.

    Event streams end at the signal, so that the time to stop is the runs' alone. `reloads`: SIGHUP reads the `SCR_*`
    settings again.

    Raises:
        ConfigurationError: a setting, an agent or the database is wrong.
        CommandFailed: the application did not start.
    """
    from app.cli.http_server import HttpServer  # noqa: PLC0415 - see app.cli.system

    application = importlib.import_module(APPLICATION)
    app = application.create_app()
    asyncio.run(_check(settings, tell))
    config.app, config.factory = app, False  # a name until here, as `dev` hands the configuration to new processes
    reload = partial(reload_capture, app, settings) if reloads else None
    server = HttpServer(config, partial(application.stop_streams, app), reload)
    # uvicorn leaves with a code of its own when the start failed, and raises Ctrl-C again after an orderly end.
    with suppress(SystemExit, KeyboardInterrupt):
        server.run(list(sockets))
    if not server.started:
        raise CommandFailed("The server did not start; the log above says why.")


async def reload_capture(app: Any, settings: "Settings") -> None:
    """Let a running application work as the `SCR_*` settings say now; when they are wrong it goes on as before."""
    container: Container = app.state.container
    try:
        await container.completions.reload()
    except AppError as error:
        log.error("capture_not_reloaded", error=error.public_message)
    else:
        set_up_server_logs(settings, container.completions.configuration)


async def _check(settings: "Settings", tell: "Callable[[Container], None]") -> None:
    """Open the system once before the server does: what is wrong is then one line, not a traceback in its log."""
    from app.bootstrap import open_container  # noqa: PLC0415 - see app.cli.system
    from app.completions import check_destinations, completion_options  # noqa: PLC0415

    await check_destinations(completion_options(settings))
    async with open_container(settings) as container:
        await container.access.check_bind()
        tell(container)


def names_of(container: "Container") -> str:
    """Return the keys of all agents, the default one first."""
    return ", ".join(agent.key for agent in container.provider.agents())


def model_of(container: "Container") -> str:
    """Return which model answers, for people."""
    if container.provider.name == "demo":
        return "the demo model (set OPENAI_API_KEY, or OPENAI_BASE_URL, to talk to a real one)"
    models = dict.fromkeys(agent.model for agent in container.provider.agents())
    return f"{', '.join(models)} at {container.settings.openai.base_url or 'OpenAI'}"
