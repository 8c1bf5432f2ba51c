"""Builds what is shown of the system; `bootstrap` calls it."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.backlog import SqlBacklog
from app.infrastructure.telemetry.listeners import Ports, Ready, open_listeners
from app.infrastructure.telemetry.metrics import PrometheusMetrics
from app.infrastructure.telemetry.monitoring import SystemMonitoring, Watched


@asynccontextmanager
async def open_monitoring(
    engine: AsyncEngine, metrics: PrometheusMetrics, watched: Watched, ready: Ready, ports: Ports | None = None
) -> AsyncGenerator[SystemMonitoring]:
    """Give the monitoring of this process; `ports` None: no port is opened beside the server's.

    Raises:
        ConfigurationError: a port cannot be listened on.
    """
    monitoring = SystemMonitoring(metrics, SqlBacklog(engine), watched)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(monitoring.aclose)
        if ports is not None:
            await stack.enter_async_context(open_listeners(monitoring, ready, ports))
        yield monitoring
