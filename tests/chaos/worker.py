"""A process that starts the runs it is told of, and executes any: `url calls lease_s pause_s`.

A line `{"name", "conversation", "stream"}` on standard input gives a line `{"name", "run"}` on standard output. The
name is the idempotency key, so a start whose answer was lost can be asked for again, of any process.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from app.domain.errors import StorageUnavailable
from app.domain.models.runs import RunRequest
from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.telemetry.logs import configure_logs
from tests.crash.scenario import CallFile, build_agent
from tests.crash.worker import CALLER, Worker, working


async def start(worker: Worker, asked: dict[str, Any]) -> None:
    name = asked["name"]
    request = RunRequest(
        CALLER, name, conversation_id=asked["conversation"], stream=asked["stream"], idempotency_key=name
    )
    try:
        handle = await worker.runs.start(request)
    except StorageUnavailable:
        return  # it is asked for again
    print(json.dumps({"name": name, "run": handle.run_id}), flush=True)


async def main() -> None:
    url, calls, lease_s, pause_s = sys.argv[1:]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    engine = build_engine(url, EngineLimits(pool_size=5))
    agent = build_agent(CallFile(Path(calls)), float(pause_s))
    async with (
        working(engine, lease_s=float(lease_s), take_over=True, agent=agent, max_attempts=50) as worker,
        asyncio.TaskGroup() as group,
    ):
        print("{}", flush=True)
        while line := await lines.readline():
            group.create_task(start(worker, json.loads(line)))
    await engine.dispose()


if __name__ == "__main__":
    configure_logs("critical", "json")  # standard output is for the parent
    asyncio.run(main())
