"""The client side of completion capture: records how sessions ended, whatever happens to the process that says so.

Importing this package is cheap: no framework, database or SDK comes with it.
"""

from typing import TYPE_CHECKING, Any

from app.capture.figures import CaptureMetrics
from app.capture.receipts import Captured, CapturedMany
from app.capture.runtime import SessionCompletionRuntime

if TYPE_CHECKING:
    from app.capture.realtime import capture_realtime_session_completion

__all__ = [
    "CaptureMetrics",
    "Captured",
    "CapturedMany",
    "SessionCompletionRuntime",
    "capture_realtime_session_completion",
]


def __getattr__(name: str) -> Any:
    # Only who watches realtime sessions pays for it.
    if name == "capture_realtime_session_completion":
        from app.capture.realtime import capture_realtime_session_completion  # noqa: PLC0415

        return capture_realtime_session_completion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
