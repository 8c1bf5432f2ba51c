"""What a server does for completions, without the rest of it."""

import asyncio
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import app.services.deliveries
from app.capture_settings import CaptureConfiguration, CaptureSettings
from app.completions import CompletionOptions, open_completions
from app.domain.models.deliveries import DestinationSettings
from app.infrastructure.clock import SystemClock
from app.infrastructure.persistence.engine import EngineLimits, build_engine
from app.infrastructure.persistence.wakeups import build_wakeups
from app.infrastructure.telemetry.logs import configure_logs
from app.services.delivery_rounds import DeliveryTimes


def serve(url: str, spool: Path, destinations: Sequence[DestinationSettings], ready: Connection) -> None:
    """Empty a spool and deliver until SIGTERM; `ready` is told when that has begun."""
    configure_logs("error", "json")
    # Whoever inherits from the dead waits as long as requests may take, not the half minute of servers.
    app.services.deliveries._MIN_LEASE_S = 0.0
    capture = CaptureSettings(spool_dir=spool, endpoint=None, flush_interval_ms=50)
    configuration = CaptureConfiguration(capture=capture, destinations=tuple(destinations))
    asyncio.run(_served(url, CompletionOptions(configuration, times=DeliveryTimes(poll_s=0.2)), ready))


async def _served(url: str, options: CompletionOptions, ready: Connection) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = build_engine(url, EngineLimits(pool_size=5, sqlite_busy_timeout_s=20))
    wakeups = build_wakeups(engine)
    await wakeups.start()
    try:
        async with open_completions(engine, SystemClock(), wakeups, options, deliver=True):
            ready.send(None)
            await stop.wait()
    finally:
        await wakeups.aclose()
        await engine.dispose()
