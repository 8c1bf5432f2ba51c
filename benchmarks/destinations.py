"""What a run costs while every destination is down, against none configured: nothing beyond noise."""

import os
import socket
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from app.bootstrap import engine_of, open_container, upgrade_database
from benchmarks.clients import Server
from benchmarks.databases import Database
from benchmarks.measuring import Contestant, Sample, Scale, cpu_ms, in_turns, p50_ms, ratio_of, timed
from benchmarks.report import print_table
from benchmarks.systems import PLAIN, Ours, agents, settings_for

NONE, DOWN, UP = "none", "all down", "all up"
_HEADER = ("database", "destinations", "ms CPU/run", "against none", "p50 ms", "against none")


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    amount = 2 if scale.is_quick else 40
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server.started("benchmarks.broken_server"))
        url = f"http://127.0.0.1:{server.port}"
        refuses = stack.enter_context(socket.socket())
        refuses.bind(("127.0.0.1", 0))  # nobody listens
        down = {
            "refuses": f"http://127.0.0.1:{refuses.getsockname()[1]}/",
            "hangs": f"{url}/hangs",
            "fails": f"{url}/fails",
        }
        up = dict.fromkeys(down, f"{url}/takes")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="destinations-")))
        for database in databases:
            samples = await _samples(database, folder, {NONE: {}, DOWN: down, UP: up}, amount, scale)
            for name, of_name in samples.items():
                cpu, wall = ratio_of(of_name, samples[NONE]), ratio_of(of_name, samples[NONE], "p50_ms")
                rows.append([database.name, name, cpu_ms(of_name), str(cpu), p50_ms(of_name), str(wall)])
    print_table(
        f"A run while destinations are down ({amount} runs a round, one at a time)",
        [
            "Three http destinations: one refuses connections, one never answers, one answers 500. CPU: all of the",
            "process's in that time, deliveries included. 'all up': the same three take every event, for comparison.",
        ],
        _HEADER,
        rows,
    )


class _Stage:
    """A server's services for one list of destinations at a time: what others do in the background is not counted."""

    def __init__(self, urls: Mapping[str, str], folder: Path) -> None:
        self._urls = urls
        self._folder = folder
        self._stack = AsyncExitStack()
        self._ours: Ours | None = None

    async def open(self, name: str, targets: Mapping[str, str]) -> None:
        """Close what is open, and open what has these destinations, by name and URL."""
        await self.close()
        file = self._folder / "capture.yaml"
        destinations = [{"name": target, "endpoint": url} for target, url in targets.items()]
        file.write_text(yaml.safe_dump({"session_completion_runtime": {"destinations": destinations}}))
        settings = settings_for(self._urls[name])
        engine = engine_of(settings)
        self._stack.push_async_callback(engine.dispose)
        before = os.environ.get("SCR_CONFIG")
        os.environ["SCR_CONFIG"] = str(file)
        try:
            opened = open_container(settings, agents=agents(), engine=engine, take_over=True)
            self._ours = Ours(await self._stack.enter_async_context(opened), engine)
        finally:
            os.environ.pop("SCR_CONFIG")
            if before is not None:
                os.environ["SCR_CONFIG"] = before
        await self.run()

    async def run(self) -> Any:
        """Run once."""
        assert self._ours is not None
        return await self._ours.run(PLAIN, None)

    async def close(self) -> None:
        """Close what is open."""
        await self._stack.aclose()
        self._stack = AsyncExitStack()


async def _samples(
    database: Database, folder: Path, choices: Mapping[str, Mapping[str, str]], amount: int, scale: Scale
) -> dict[str, list[Sample]]:
    async with AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(database.fresh()) for name in choices}
        for url in urls.values():
            await upgrade_database(settings_for(url))
        stage = _Stage(urls, folder)
        stack.push_async_callback(stage.close)
        return await in_turns(
            {
                name: Contestant(partial(timed, [stage.run] * amount), partial(stage.open, name, targets))
                for name, targets in choices.items()
            },
            scale,
        )
