"""A process that kills itself at a chosen point of a run's last transaction.

It imports everything once and then forks for every point it is asked for: a line `{"url", "point"}` on standard input
gives a line `{"run", "killed", "points"}` on standard output.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.runs import NewRun, Run, RunRecord, StartedRun
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.telemetry.logs import configure_logs
from tests.crash.worker import working

LEASE_S = 0.3


class Points:
    """Counts the points of the last transaction and dies at one of them."""

    def __init__(self, engine: AsyncEngine, fatal: int) -> None:
        self.count = 0
        self.armed = False
        self.fatal = fatal
        for name in ("before_cursor_execute", "after_cursor_execute", "begin", "commit"):
            event.listen(engine.sync_engine, name, self.reach)

    def reach(self, *_: Any) -> None:
        if not self.armed:
            return
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class CountedJournal(SqlRunJournal):
    """Arms the points when the last transaction begins; the point after its commit is the last one."""

    def __init__(self, engine: AsyncEngine, points: Points, report: Path) -> None:
        super().__init__(engine, lease_s=LEASE_S)
        self.points = points
        self.report = report

    async def start(self, new: NewRun, owner: str) -> StartedRun:
        started = await super().start(new, owner)
        # The test must know the run that is about to be killed.
        told = {"run": started.run.id, "conversation": started.run.conversation_id}
        self.report.write_text(json.dumps(told))
        return started

    async def finish(self, run: Run, record: RunRecord) -> None:
        self.points.armed = True
        await super().finish(run, record)
        self.points.reach()
        self.points.armed = False


async def run_once(url: str, fatal: int, report: Path) -> None:
    engine = build_engine(url)
    points = Points(engine, fatal)
    journal = CountedJournal(engine, points, report)
    async with working(engine, journal=journal, lease_s=LEASE_S) as worker:
        await worker.say("tool one")
    await engine.dispose()
    told = json.loads(report.read_text())
    report.write_text(json.dumps({**told, "points": points.count}))


def main() -> None:
    configure_logs("error", "json")  # standard output is for the test
    for line in sys.stdin:
        asked = json.loads(line)
        report = Path(asked["report"])
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(run_once(asked["url"], asked["point"], report))
            except BaseException as error:
                report.write_text(json.dumps({"error": repr(error)}))
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({**json.loads(report.read_text()), "killed": killed}), flush=True)


if __name__ == "__main__":
    main()
