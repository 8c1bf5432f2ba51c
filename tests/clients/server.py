"""The server as its users start it, with the fake OpenAI as its upstream, for clients that are programs of their own.

With more than one process on one database a front hands every request to the next of them, so that whatever a client
does in two requests is done by two processes.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

from tests.databases import PostgresServer
from tests.fakes.openai import FakeOpenAI

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "app")
KEPT = ("PATH", "LANG", "PYTHONDONTWRITEBYTECODE")
MODELS = "gpt-*, text-embedding-*"
_SERVING = re.compile(rb" at (http://\S+) with ")


@dataclass(frozen=True)
class Address:
    """Where clients find the server."""

    base_url: str
    """Without `/v1`."""
    api_key: str
    """Of a caller."""
    admin_key: str
    """Of an administrator."""


@contextmanager
def running(
    folder: Path, *, database_url: str | None = None, processes: int = 1, upstream: bool = True
) -> Iterator[Address]:
    """Serve the demo agents until the block ends.

    Args:
        folder: for the SQLite file and the servers' logs.
        database_url: an empty database; none: a SQLite file.
        processes: how many servers share the database.
        upstream: over the fake OpenAI, whose models may be called, too; else with the demo model.
    """
    with ExitStack() as stack:
        environment = {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(folder),
            "DATABASE_URL": database_url or f"sqlite:///{folder / 'clients.db'}",
            "APP_DEMO_DELAY_MS": "0",
        }
        if upstream:
            fake = stack.enter_context(FakeOpenAI())
            environment |= {
                "OPENAI_BASE_URL": fake.base_url,
                "OPENAI_API_KEY": fake.api_key,
                "OPENAI_API": "responses",
                "APP_GATEWAY_MODELS": MODELS,
            }
        _call(folder, environment, "db", "upgrade")
        api_key = _key(folder, environment)
        admin_key = _key(folder, environment, "--scope", "admin", "--scope", "usage")
        urls = [stack.enter_context(_serving(folder, environment, number)) for number in range(processes)]
        url = urls[0] if processes == 1 else stack.enter_context(_front(urls))
        yield Address(url, api_key, admin_key)


@contextmanager
def empty_database(kind: Literal["sqlite", "postgresql"]) -> Iterator[str | None]:
    """Give the URL of an empty database on a PostgreSQL server of its own, or None, which is a SQLite file."""
    if kind == "sqlite":
        yield None
        return
    server = PostgresServer()
    try:
        server.start()
        asyncio.run(server.execute("CREATE DATABASE clients"))
        yield server.url("clients")
    finally:
        server.remove()


def _key(folder: Path, environment: dict[str, str], *options: str) -> str:
    return json.loads(_call(folder, environment, "keys", "create", "--name", "clients", "--json", *options))["value"]


def _call(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


@contextmanager
def _serving(folder: Path, environment: dict[str, str], number: int) -> Iterator[str]:
    """Start one server on a free port; its log is in `server-N.log`."""
    log = folder / f"server-{number}.log"
    with (
        log.open("wb") as lines,
        subprocess.Popen(
            [*COMMAND, "serve", "--port", "0"], cwd=folder, env=environment, stdout=lines, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stderr is not None
        try:
            for line in process.stderr:
                lines.write(line)
                if found := _SERVING.search(line):
                    break
            else:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}")
            rest = threading.Thread(target=_copy, args=(process.stderr, lines), daemon=True)
            rest.start()
            yield found[1].decode()
        finally:
            process.terminate()
            process.wait(30)
            rest.join(5)


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    """Write on what the server says, or it would wait for a reader."""
    for line in source:
        target.write(line)


@contextmanager
def _front(urls: Sequence[str]) -> Iterator[str]:
    """Listen, and pass every connection to the next server; each carries one request."""
    loop = asyncio.new_event_loop()
    places = cycle([urlsplit(url) for url in urls])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = next(places)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            back, forth = await asyncio.open_connection(place.hostname, place.port)
            forth.write(b"\r\n".join([lines[0], b"connection: close", *lines[1:]]))
            sending = asyncio.create_task(_pump(reader, forth))
            try:
                await _pump(back, writer)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                forth.close()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side is gone: so is the other
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(pass_on, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, name="front", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
