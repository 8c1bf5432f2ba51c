"""Many readers of one run: how long the run takes, and what a reader costs the server."""

import asyncio
from contextlib import AsyncExitStack
from statistics import median

from app.bootstrap import upgrade_database
from benchmarks.clients import Server
from benchmarks.databases import Database
from benchmarks.instant_model import PACED, PACED_DELTAS
from benchmarks.measuring import Scale
from benchmarks.report import print_table
from benchmarks.systems import settings_for

_HEADER = (
    "database",
    "readers",
    "run ms",
    "against 1 reader",
    "server CPU ms",
    "us per reader and delta",
    "CPU ms to connect, each",
)


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for database in databases:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(database.fresh())
            await upgrade_database(settings_for(url))
            server = await stack.enter_async_context(Server.started("benchmarks.our_server", url))
            took: dict[int, list[tuple[float, float, float]]] = {amount: [] for amount in scale.readers}
            for number in range(scale.reader_rounds):
                for amount in scale.readers[:: 1 if number % 2 else -1]:
                    took[amount].append(await _one_run(server, amount))
        alone = median(sample[0] for sample in took[scale.readers[0]])
        for amount, samples in took.items():
            run_ms, cpu_ms, connect_ms = (median(sample[index] for sample in samples) for index in (0, 1, 2))
            each = cpu_ms * 1000 / amount / PACED_DELTAS
            rows.append([database.name, amount, run_ms, f"{run_ms / alone:.3f}", cpu_ms, each, connect_ms / amount])
    print_table(
        f"6. Readers of one run ({PACED_DELTAS} deltas, 10 ms apart)",
        [
            "The run is queued behind another one until all readers are there, reading its events over HTTP; each must",
            "get every one. 'run ms' is what the run itself took by its last event; CPU is the whole server's.",
        ],
        _HEADER,
        rows,
    )


async def _one_run(server: Server, readers: int) -> tuple[float, float, float]:
    """Return milliseconds: what a run took, the server's CPU meanwhile, and its CPU while the readers came."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connected()) for _ in range(readers)]
        starter = await stack.enter_async_context(server.connected())
        session = await starter.open_session(PACED)
        message = {"sessionId": session, "message": "Write."}
        before_s = server.cpu_s()
        first = await starter.start_run(message)
        run_id = await starter.start_run(message)
        await asyncio.gather(*(client.begin_to_read(run_id, session) for client in clients))
        between_s = server.cpu_s()
        await starter.begin_to_read(first, session)
        if await starter.read_to_end() < PACED_DELTAS:
            raise RuntimeError("the run before was over before its readers were there")
        begun_s = server.cpu_s()
        times_ms = await asyncio.gather(*(client.read_to_end() for client in clients))
        return median(times_ms), (server.cpu_s() - begun_s) * 1000, (between_s - before_s) * 1000
