"""Executes runs in this process: claims, renews, lets go, and stops in an order one can read."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Final

import structlog

from app.domain.errors import StorageUnavailable
from app.domain.identifiers import uuid7_hex
from app.domain.models.runs import ClaimedRun, Run
from app.domain.run_ports import RunJournal, Wakeups

log = structlog.get_logger(__name__)

Execute = Callable[[ClaimedRun], Awaitable[bool]]
Stop = Callable[[str, str], bool]

QUEUE: Final = "queue"
MAX_RENEW_S: Final = 2.0
"""Renewing also brings what another process has asked of our runs, so it is not left to a long lease alone."""


class InProcessDispatcher:
    """Dispatcher over the journal's leases: no membership, no clock agreement; the database does the locking."""

    def __init__(
        self,
        journal: RunJournal,
        wakeups: Wakeups,
        *,
        lease_s: float,
        poll_s: float,
        max_running: int,
        take_over: bool,
    ) -> None:
        """`take_over`: also claim runs that nobody holds. `poll_s`: how often to look for work when nothing tells."""
        self.owner = f"{socket.gethostname()[:24]}-{os.getpid()}-{uuid7_hex()[-12:]}"
        self._journal = journal
        self._wakeups = wakeups
        self._renew_every_s = min(lease_s / 3, MAX_RENEW_S)
        self._poll_s = poll_s
        self._take_over = take_over
        self._max_running = max_running
        self._slots = asyncio.Semaphore(max_running)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._begun: set[str] = set()
        self._cancelled_early: set[str] = set()
        self._queued: set[str] = set()
        self._missed: set[str] = set()
        self._claiming = asyncio.Lock()
        self._side_tasks: list[asyncio.Task[None]] = []
        self._execute: Execute | None = None
        self._stop: Stop = lambda _run_id, _reason: False
        self._stopping = False

    async def start(self, execute: Execute, stop: Stop) -> None:
        """Begin renewing and claiming; see the port."""
        self._execute = execute
        self._stop = stop
        self._side_tasks = [
            asyncio.create_task(self._renew_forever(), name="renew-leases"),
            asyncio.create_task(self._claim_forever(), name="claim-runs"),
        ]
        for task in self._side_tasks:
            task.add_done_callback(self._side_task_ended)

    def execute(self, claimed: ClaimedRun) -> None:
        """Execute a claimed run; see the port."""
        run_id = claimed.run.id
        self._queued.discard(run_id)
        earlier = self._running.get(run_id)
        if earlier is not None:
            # Our lease was over and we found it first: the attempt before has lost the run as to another process.
            log.warning("lease_lost", run_id=run_id)
            self._stop(run_id, "lease_lost")
            self._forget(run_id)
        task = asyncio.create_task(self._execute_one(claimed, earlier), name=f"run {run_id}")
        self._running[run_id] = task
        task.add_done_callback(lambda ended: self._ended(run_id, ended))

    def wait_for_turn(self, run: Run) -> None:
        """Execute a queued run when its turn comes; see the port."""
        self._queued.add(run.id)
        self._wakeups.announce(QUEUE)

    async def execute_now(self, run_id: str) -> bool:
        """Claim one run and execute it; see the port."""
        async with self._claiming:
            if self._stopping or run_id in self._running:
                return False
            claimed = await self._journal.claim(self.owner, take_over=True, run_id=run_id)
            if claimed is not None:
                self.execute(claimed)
            return claimed is not None

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
        """Stop: no new work, let queued runs go, wait, let the rest go, end the renewing; see the port."""
        self._stopping = True
        renewing, claiming = self._side_tasks if self._side_tasks else (None, None)
        async with self._claiming:  # a claim that is cut would leave a run with nobody to execute it
            await _ended_task(claiming)
        await self._let_queued_go()
        running = list(self._running.values())
        if running:
            _, late = await asyncio.wait(running, timeout=grace_s)
            for run_id in list(self._running):
                self._stop(run_id, "hand_back")
            if late:
                await asyncio.wait(late)
        # Leases are renewed to the end: a run that is being recorded must not be taken over meanwhile.
        await _ended_task(renewing)

    async def _let_queued_go(self) -> None:
        if not self._queued:
            return
        try:
            await self._journal.hand_back_queued(self.owner)
        except StorageUnavailable:
            log.warning("hand_back_failed", owner=self.owner)  # their leases run out instead
        for run_id in self._queued:
            self._stop(run_id, "hand_back")
        self._queued.clear()

    async def _execute_one(self, claimed: ClaimedRun, earlier: asyncio.Task[None] | None) -> None:
        if self._execute is None:
            raise RuntimeError("the dispatcher was not started")
        run_id = claimed.run.id
        if earlier is not None:
            await asyncio.wait((earlier,))
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
            if await self._execute(claimed) and not self._stopping:
                self._queued.add(run_id)  # to be claimed once more, and closed
        finally:
            if not waiting:
                self._slots.release()

    def _side_task_ended(self, task: asyncio.Task[None]) -> None:
        """Give up everything when the renewing or the claiming has died of a fault: others go on with the runs."""
        if task.cancelled() or self._stopping:
            return
        log.critical("dispatcher_died", owner=self.owner, task=task.get_name(), exc_info=task.exception())
        self._stopping = True
        for run_id in [*self._running, *self._queued]:
            self._stop(run_id, "hand_back")

    def _ended(self, run_id: str, task: asyncio.Task[None]) -> None:
        was_full = len(self._running) >= self._max_running
        if self._running.get(run_id) is task:
            self._forget(run_id)
        # What may go on now is queued here, or was left for want of room; other processes look for theirs.
        if self._queued or (self._take_over and was_full):
            self._wakeups.announce(QUEUE)

    def _forget(self, run_id: str) -> None:
        self._running.pop(run_id, None)
        self._missed.discard(run_id)
        self._begun.discard(run_id)
        self._cancelled_early.discard(run_id)

    async def _claim_forever(self) -> None:
        while True:
            try:
                await self._claim_all()
            except StorageUnavailable:
                log.warning("claim_failed", owner=self.owner)
                await asyncio.sleep(self._poll_s)
            looks = self._queued or self._take_over
            await self._wakeups.wait(QUEUE, self._poll_s if looks else 3600)

    async def _claim_all(self) -> None:
        """Claim what there is, as long as it can be executed at once: others may have the room that we lack."""
        while (self._queued or self._take_over) and len(self._running) < self._max_running and not self._stopping:
            async with self._claiming:
                claimed = None if self._stopping else await self._journal.claim(self.owner, take_over=self._take_over)
                if claimed is None:
                    return
                self.execute(claimed)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            held = self._running.keys() | self._queued
            if not held:
                continue
            try:
                renewed = await self._journal.renew(self.owner, held)
            except StorageUnavailable:
                log.warning("renew_failed", owner=self.owner)
                continue
            self._heed(held, renewed)

    def _heed(self, held: Set[str], renewed: Mapping[str, str | None]) -> None:
        """Stop runs whose end was asked for, and those that are no longer ours."""
        for run_id, reason in renewed.items():
            if reason is not None:
                self._stop(run_id, reason)
        # A run may end or be claimed between the two looks, so only the second miss in a row is a lost lease.
        missing = (held & (self._running.keys() | self._queued)) - renewed.keys()
        for run_id in missing & self._missed:
            log.warning("lease_lost", run_id=run_id)
            self._queued.discard(run_id)
            self._stop(run_id, "lease_lost")
        self._missed = set(missing)


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
