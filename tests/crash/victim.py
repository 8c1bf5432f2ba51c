"""A process that kills itself at a chosen point of a run.

It imports everything once and then forks for every point it is asked for: a line
`{"url", "name", "stream", "asking", "point", "calls", "report"}` on standard input gives a line `{"killed", "points"}`
on standard output. `points` are the kinds of the points of a run that was not killed; the first point is number 1.
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

from app.domain.models.runs import RunRequest
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.telemetry.logs import configure_logs
from tests.crash.scenario import CallFile, build_agent
from tests.crash.worker import CALLER, working

LEASE_S = 0.3


class Points:
    """Counts the points of a run and dies at one of them.

    A point is before or after a statement, and before or after a commit. A statement in AUTOCOMMIT is a commit.
    """

    def __init__(self, engine: AsyncEngine, fatal: int) -> None:
        self.kinds: list[str] = []
        self.armed = False
        self.fatal = fatal
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: self._statement("before", told[0]))
        event.listen(engine.sync_engine, "after_cursor_execute", lambda *told: self._statement("after", told[0]))
        dialect: Any = engine.sync_engine.dialect
        commit = dialect.do_commit

        def counted(connection: Any) -> None:
            # A connection in AUTOCOMMIT has nothing to commit, but the dialect is asked to all the same.
            if getattr(connection, "isolation_level", None) == "autocommit":
                return commit(connection)
            self.reach("before commit")
            commit(connection)
            self.reach("after commit")
            return None

        dialect.do_commit = counted

    def _statement(self, when: str, connection: Any) -> None:
        autocommit = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        self.reach(f"{when} {'commit' if autocommit else 'statement'}")

    def reach(self, kind: str) -> None:
        if not self.armed:
            return
        self.kinds.append(kind)
        if len(self.kinds) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


async def run_once(asked: dict[str, Any]) -> list[str]:
    engine = build_engine(asked["url"])
    points = Points(engine, asked["point"])
    # The lease is short for the process that takes over; renewing it would add points at random.
    journal = SqlRunJournal(engine, lease_s=LEASE_S)
    agent = build_agent(CallFile(Path(asked["calls"])), asking=asked["asking"])
    async with working(engine, journal=journal, agent=agent) as worker:
        points.armed = True
        handle = await worker.runs.start(RunRequest(CALLER, asked["name"], stream=asked["stream"]))
        await handle.result()
        points.armed = False
    await engine.dispose()
    return points.kinds


def main() -> None:
    configure_logs("error", "json")  # standard output is for the test
    for line in sys.stdin:
        asked = json.loads(line)
        report = Path(asked["report"])
        report.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                report.write_text(json.dumps({"points": asyncio.run(run_once(asked))}))
            except BaseException as error:
                report.write_text(json.dumps({"error": repr(error)}))
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        told = json.loads(report.read_text()) if report.exists() else {}
        print(json.dumps({**told, "killed": killed}), flush=True)


if __name__ == "__main__":
    main()
