"""One sync for everybody who waits for the disk."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from app.capture.receipts import Settlement
from app.capture.switch import Complaints


class GroupCommit:
    """A thread that syncs as long as somebody waits: who comes during a sync waits for the next, with all others."""

    def __init__(self, sync: Callable[[], None]) -> None:
        """`sync` puts everything that was appended before the call on the disk, or raises OSError."""
        self._sync: Final = sync
        self._complaints: Final = Complaints()
        self._begin()

    def _begin(self) -> None:
        # A signal's handler may join while its thread does: nothing here is half done, and no lock is not its own.
        self._lock = threading.RLock()
        self._asked = SimpleQueue[None]()
        self._open = Settlement()
        self._syncing: Settlement | None = None
        self._thread: threading.Thread | None = None
        self._ending = False

    def join(self) -> Settlement:
        """Return what ends when everything that has been appended is on the disk."""
        with self._lock:
            settlement = self._open
            alone = not self._has_thread()
        if alone:
            self._commit()
        else:
            self._asked.put(None)
        return settlement

    def close(self, timeout_s: float) -> None:
        """Let the thread end after what is under way."""
        self._ending = True
        self._asked.put(None)
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def after_fork(self) -> None:
        """Begin anew; whoever waits for the parent's sync learns that it will not be known here."""
        self._open.after_fork()
        if self._syncing is not None:
            self._syncing.after_fork()
        self._begin()

    def _has_thread(self) -> bool:
        if self._thread is None and not self._ending:
            thread = threading.Thread(target=self._run, name="scr-sync", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is at its end
                return False
            self._thread = thread
        return not self._ending

    def _run(self) -> None:
        while not self._ending:
            self._asked.get()
            with suppress(Empty):
                while True:
                    self._asked.get_nowait()
            self._commit()

    def _commit(self) -> None:
        with self._lock:
            settlement, self._open = self._open, Settlement()
            self._syncing = settlement
        try:
            self._sync()
        except OSError as error:
            self._complaints.say(logging.ERROR, "Events are not on the disk", type(error).__name__)
        else:
            settlement.settle(succeeded=True)
        finally:
            settlement.settle(succeeded=False)  # nobody must wait for ever; what has succeeded stays so
