"""Memory and processor time of this process."""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
_MIN_WINDOW_S: Final = 2.0


def memory_bytes() -> int:
    """Return the memory that the process holds now; where the system does not tell, the most it ever held."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


class ProcessorLoad:
    """How busy the process is: 100 percent is one core, so more is possible.

    The mean since the look before, or since it was made; looks closer than two seconds give the same answer, so two
    that ask in turn do not spoil each other's.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], float] = time.process_time
    ) -> None:
        """Both give seconds."""
        self._clock: Final = clock
        self._used: Final = used
        self._at, self._used_s = clock(), used()
        self._percent: float | None = None

    def percent(self) -> float:
        """Return the load."""
        now, used_s = self._clock(), self._used()
        elapsed_s = now - self._at
        if self._percent is not None and elapsed_s < _MIN_WINDOW_S:
            return self._percent
        self._percent = 100 * (used_s - self._used_s) / elapsed_s if elapsed_s > 0 else 0.0
        self._at, self._used_s = now, used_s
        return self._percent
