"""How uvicorn serves the application; whoever starts it (`durable-agents serve`, a test) passes these on."""

import math
from typing import Any

from app.api.loopback import check_bind
from app.settings import Settings


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Return arguments for `uvicorn.run` or `uvicorn.Config`, beside the application.

    Raises:
        ConfigurationError: HOST is an address that other machines can reach.
    """
    return {
        "host": check_bind(settings.server.host),
        "port": settings.server.port,
        "log_config": None,  # our own logging stays as it is
        "access_log": False,  # it writes query strings, which may hold session ids; we log every request without
        "server_header": False,
        # Open streams end after this; their runs go on or are handed back when the lifespan ends.
        "timeout_graceful_shutdown": max(1, math.ceil(settings.runs.shutdown_grace_s)),
    }
