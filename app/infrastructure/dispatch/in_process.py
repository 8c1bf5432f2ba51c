"""Executes runs in this process: claims, renews, and stops in an order one can read."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from app.domain.errors import StorageUnavailable
from app.domain.identifiers import uuid7_hex
from app.domain.models.runs import ClaimedRun, Run
from app.domain.ports import RunJournal

log = structlog.get_logger(__name__)

Execute = Callable[[ClaimedRun], Awaitable[None]]


class InProcessDispatcher:
    """Dispatcher over the journal's leases: no membership, no clock agreement; the database does the locking."""

    def __init__(
        self,
        journal: RunJournal,
        *,
        lease_s: float,
        poll_s: float,
        max_running: int,
        take_over: bool,
        on_lease_lost: Callable[[str], None] | None = None,
    ) -> None:
        """`take_over`: also claim runs of processes that were lost. `poll_s`: how often to look for such work."""
        self.owner = f"{socket.gethostname()[:24]}-{os.getpid()}-{uuid7_hex()[-12:]}"
        self._journal = journal
        self._renew_every_s = lease_s / 3
        self._poll_s = poll_s
        self._take_over = take_over
        self._slots = asyncio.Semaphore(max_running)
        self._on_lease_lost = on_lease_lost
        self._running: dict[str, asyncio.Task[None]] = {}
        self._begun: set[str] = set()
        self._cancelled_early: set[str] = set()
        self._queued: set[str] = set()
        self._missed: set[str] = set()
        self._poke = asyncio.Event()
        self._side_tasks: list[asyncio.Task[None]] = []
        self._execute: Execute | None = None
        self._stopping = False

    async def start(self, execute: Execute) -> None:
        """Begin renewing and claiming; see the port."""
        self._execute = execute
        self._side_tasks = [
            asyncio.create_task(self._renew_forever(), name="renew-leases"),
            asyncio.create_task(self._claim_forever(), name="claim-runs"),
        ]

    def execute(self, claimed: ClaimedRun) -> None:
        """Execute a claimed run; see the port."""
        run_id = claimed.run.id
        task = asyncio.create_task(self._execute_one(claimed), name=f"run {run_id}")
        self._running[run_id] = task
        task.add_done_callback(lambda _: self._ended(run_id))

    def wait_for_turn(self, run: Run) -> None:
        """Execute a queued run when its turn comes; see the port."""
        self._queued.add(run.id)
        self._poke.set()

    def cancel(self, run_id: str) -> bool:
        """Stop a run; see the port."""
        task = self._running.get(run_id)
        if task is None:
            return False
        if run_id in self._begun:
            return task.cancel()
        # A task that is cancelled before its first step never runs at all, and the run would never be recorded.
        self._cancelled_early.add(run_id)
        return True

    async def stop(self, grace_s: float) -> None:
        """Stop: no new work, end the claiming, wait, cancel the rest, end the renewing; see the port."""
        self._stopping = True
        renewing, claiming = self._side_tasks if self._side_tasks else (None, None)
        await _ended_task(claiming)
        running = list(self._running.values())
        if running:
            _, late = await asyncio.wait(running, timeout=grace_s)
            for run_id in list(self._running):
                self.cancel(run_id)
            if late:
                await asyncio.wait(late)
        # Leases are renewed to the end: a run that is being recorded must not be taken over meanwhile.
        await _ended_task(renewing)

    async def _execute_one(self, claimed: ClaimedRun) -> None:
        if self._execute is None:
            raise RuntimeError("the dispatcher was not started")
        run_id = claimed.run.id
        self._begun.add(run_id)
        if run_id in self._cancelled_early:
            _cancel_soon()
        waiting = True
        try:
            await self._slots.acquire()
            waiting = False
        except asyncio.CancelledError:
            # Cancelled in the queue: it is executed all the same, and cancelled there, so that its end is recorded.
            _cancel_soon()
        try:
            await self._execute(claimed)
        finally:
            if not waiting:
                self._slots.release()

    def _ended(self, run_id: str) -> None:
        self._running.pop(run_id, None)
        self._missed.discard(run_id)
        self._begun.discard(run_id)
        self._cancelled_early.discard(run_id)
        if self._queued:
            self._poke.set()

    async def _claim_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                wait_s = self._poll_s if self._queued or self._take_over else None
                await asyncio.wait_for(self._poke.wait(), wait_s)
            self._poke.clear()
            try:
                await self._claim_all()
            except StorageUnavailable:
                log.warning("claim_failed", owner=self.owner)

    async def _claim_all(self) -> None:
        while (self._queued or self._take_over) and not self._stopping:
            claimed = await self._journal.claim(self.owner, take_over=self._take_over)
            if claimed is None:
                return
            self._queued.discard(claimed.run.id)
            self.execute(claimed)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            held = set(self._running)
            if not held and not self._queued:
                continue
            try:
                renewed = set(await self._journal.renew(self.owner))
            except StorageUnavailable:
                log.warning("renew_failed", owner=self.owner)
                continue
            # A run may end between the two looks, so only the second miss in a row counts as a lost lease.
            missing = (held & set(self._running)) - renewed
            for run_id in missing & self._missed:
                log.warning("lease_lost", run_id=run_id)
                if self._on_lease_lost is not None:
                    self._on_lease_lost(run_id)
            self._missed = missing


def _cancel_soon() -> None:
    """Cancel the current task at its next suspension."""
    current = asyncio.current_task()
    if current is not None:
        current.uncancel()
        asyncio.get_running_loop().call_soon(current.cancel)


async def _ended_task(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
