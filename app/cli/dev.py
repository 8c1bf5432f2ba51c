"""`durable-agents dev`: the server for one developer, with a banner and a reload at every change."""

import logging
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Final

import typer

from app.cli.failures import CommandFailed, reported
from app.cli.options import Place, command
from app.cli.output import notice
from app.cli.serve import (
    Server,
    bound_socket,
    export_settings,
    model_of,
    names_of,
    serve_process,
    set_up_server_logs,
    url_of,
    uvicorn_config,
)
from app.cli.system import import_from_working_directory, settings_of
from app.domain.errors import ConfigurationError
from app.domain.loopback import is_loopback

if TYPE_CHECKING:
    import uvicorn

    from app.bootstrap import Container
    from app.settings import Settings

_JSON: Final = "-H 'content-type: application/json'"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "dev")(dev)


def dev(server: Server, place: Place) -> None:
    """Serve the agents on this machine and start anew whenever a file changes."""
    # A reload should not wait for a long run: what it did so far is recorded.
    os.environ.setdefault("APP_RUN_SHUTDOWN_GRACE_S", "2")
    export_settings(server, place)
    from uvicorn.supervisors import ChangeReload  # noqa: PLC0415 - see app.cli.system

    from app.bootstrap import set_up_logs  # noqa: PLC0415

    settings = settings_of(place)
    set_up_logs(settings)  # not as the file says: a wrong one is told by the processes that the next change starts
    if is_loopback(settings.server.host) and "allow_private_webhooks" not in settings.delivery.model_fields_set:
        # Receivers that are being written listen on this machine.
        os.environ["APP_DELIVERY_ALLOW_PRIVATE_WEBHOOKS"] = "true"
    import_from_working_directory()  # the processes started below get the same paths
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every write to the database
    files = _capture_files()
    config = uvicorn_config(
        settings,
        reload=True,
        reload_dirs=[*_watched(settings), *(str(path.parent) for path in files)],
        reload_includes=["*.py", "*.md", ".env", *(path.name for path in files)],
    )
    told = multiprocessing.get_context("spawn").Event()
    with bound_socket(settings.server.host, settings.server.port) as listening:
        process = DevServer(config, url_of(settings.server.host, listening), told, debug=place.debug)
        ChangeReload(config, target=process, sockets=[listening]).run()


@dataclass(frozen=True, slots=True)
class DevServer:
    """What each of the processes does that a change starts: serve, or tell in one line what has to be mended."""

    config: "uvicorn.Config"
    url: str
    told: Event
    """Set by the first process that could start: the banner is shown once."""
    debug: bool

    def __call__(self, sockets: Sequence[socket] | None) -> None:
        """Serve until the next change; uvicorn calls this in a new process."""
        try:
            with reported(debug=self.debug):
                settings = settings_of(Place())
                set_up_server_logs(settings)
                serve_process(self.config, settings, sockets or (), self._tell)
        except CommandFailed as failure:
            notice(f"Error: {failure.message}", style="31")
            notice("Mend it and save: the server starts again. Ctrl-C leaves.")

    def _tell(self, container: "Container") -> None:
        if self.told.is_set():
            return
        self.told.set()
        database = masked_database(container.settings)
        for line in banner(self.url, database, names_of(container), model_of(container)):
            notice(line, style="1" if line.startswith("durable-agents") else "0")


def masked_database(settings: "Settings") -> str:
    """Return the database's URL without its password."""
    from app.settings import masked  # noqa: PLC0415 - see app.cli.system

    return masked(settings.database.url)


def banner(url: str, database: str, agents: str, model: str) -> Sequence[str]:
    """Return what a developer wants to know first, and one command that works as it stands."""
    opened = f"curl -s -X POST {url}/api/session {_JSON} -d '{{}}'"
    session_id = f"""$({opened} | sed 's/.*"sessionId":"\\([^"]*\\)".*/\\1/')"""
    body = f'{{\\"sessionId\\":\\"{session_id}\\",\\"message\\":\\"What is the weather in Lisbon?\\"}}'
    return (
        f"durable-agents at {url}",
        f"  Database  {database}",
        f"  Agents    {agents}",
        f"  Model     {model}",
        "  Try       durable-agents chat, or:",
        f'curl -N {url}/api/chat/stream {_JSON} -d "{body}"',
    )


def _capture_files() -> Sequence[Path]:
    """Return the file that SCR_CONFIG names, if it names one."""
    from app.capture_settings import load_capture  # noqa: PLC0415 - see app.cli.system

    try:
        named = load_capture().capture.config
    except ConfigurationError:
        # The server tells what is wrong; where it is the file, its name is known all the same.
        told = os.environ.get("SCR_CONFIG")
        named = Path(told) if told else None
    return () if named is None else (named,)


def _watched(settings: "Settings") -> list[str]:
    folders = [".", settings.agents.agents_folder, settings.agents.tools_folder]
    return [folder for folder in folders if folder is not None and os.path.isdir(folder)]  # noqa: PTH112 - may be a package
