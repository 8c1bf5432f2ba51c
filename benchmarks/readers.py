"""Many readers of one run: how long the run takes, and what a reader costs the server."""

import asyncio
from contextlib import AsyncExitStack
from statistics import median

from app.bootstrap import upgrade_database
from benchmarks.clients import Server, StreamClient
from benchmarks.databases import Database
from benchmarks.instant_model import PACED, PACED_DELTAS
from benchmarks.measuring import Scale
from benchmarks.report import print_table
from benchmarks.systems import settings_for

_HEADER = ("database", "readers", "run ms", "against 1 reader", "server CPU ms", "us per reader and delta")


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for database in databases:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(database.fresh())
            await upgrade_database(settings_for(url))
            server = await stack.enter_async_context(Server.started("benchmarks.our_server", url))
            took: dict[int, list[tuple[float, float]]] = {amount: [] for amount in scale.readers}
            for number in range(scale.reader_rounds):
                for amount in scale.readers[:: 1 if number % 2 else -1]:
                    took[amount].append(await _one_run(server, amount))
        alone = median(run_ms for run_ms, _ in took[scale.readers[0]])
        for amount, samples in took.items():
            run_ms, cpu_ms = (median(sample[index] for sample in samples) for index in (0, 1))
            each = cpu_ms * 1000 / amount / PACED_DELTAS
            rows.append([database.name, amount, run_ms, f"{run_ms / alone:.3f}", cpu_ms, each])
    print_table(
        f"6. Readers of one run ({PACED_DELTAS} deltas, 10 ms apart)",
        [
            "The run is started in the background; then the readers all ask for its events over HTTP, and each must get",
            "every one. 'run ms' is what the run itself took by its last event; CPU is the whole server's.",
        ],
        _HEADER,
        rows,
    )


async def _one_run(server: Server, readers: int) -> tuple[float, float]:
    """Return how many milliseconds a run took, and the server's CPU milliseconds meanwhile."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.connected()) for _ in range(readers)]
        session = await clients[0].open_session(PACED)
        cpu_s = server.cpu_s()
        run_id = await clients[0].start_run({"sessionId": session, "message": "Write."})

        async def read(client: StreamClient) -> float:
            return await client.read_run(run_id, session)

        times_ms = await asyncio.gather(*map(read, clients))
        return median(times_ms), (server.cpu_s() - cpu_s) * 1000
