"""The running system, as commands use it.

What these functions import costs a second, so they import it when called: `--help` and `version` stay fast.
"""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from app.cli.options import Place

if TYPE_CHECKING:
    from app.bootstrap import Container
    from app.settings import Settings


def settings_of(place: Place) -> "Settings":
    """Read the settings, with the database that the command line names.

    Raises:
        ConfigurationError: a value is wrong.
    """
    from app.settings import load_settings  # noqa: PLC0415 - see the module

    return load_settings(**({"database": {"url": place.database}} if place.database is not None else {}))


def set_up(place: Place) -> "Settings":
    """Read the settings and set up the process: quiet logs, and imports from the working directory.

    Raises:
        ConfigurationError: a value is wrong.
    """
    from app.bootstrap import set_up_logs  # noqa: PLC0415 - see the module

    settings = settings_of(place)
    level = "debug" if place.debug else "warning"
    set_up_logs(settings.model_copy(update={"server": settings.server.model_copy(update={"log_level": level})}))
    import_from_working_directory()
    return settings


def import_from_working_directory() -> None:
    """Let `APP_AGENTS` name modules beside the user, as `python -m` would; a console script does not."""
    if sys.path[0] not in {"", os.getcwd()}:  # noqa: PTH109 - compared with a string of the interpreter
        sys.path.insert(0, "")


@asynccontextmanager
async def system(place: Place) -> "AsyncGenerator[Container]":
    """Open the system for one command: its own runs only, none of a lost process.

    Raises:
        ConfigurationError: a setting or an agent is wrong.
        StorageUnavailable: the database cannot be reached.
    """
    from app.bootstrap import open_container  # noqa: PLC0415 - see the module

    async with open_container(set_up(place)) as container:
        yield container
