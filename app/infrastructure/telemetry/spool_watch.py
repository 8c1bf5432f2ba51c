"""What the spool of this machine holds: read from its folder when somebody asks; the folder is never made."""

import sqlite3
from pathlib import Path

from app.domain.metrics_ports import SpoolHealth
from app.infrastructure.completions.spool_reader import SpoolReader


def look_into_spool(folder: Path, max_bytes: int) -> SpoolHealth | None:
    """Return what there is; None: there is no spool, or it cannot be read now. Blocks for a look at some files.

    It stands beside the relay and needs no lock of its own. `max_bytes`: what writers may fill the folder with.
    """
    if not folder.is_dir():
        return None
    try:
        reader = SpoolReader(folder)
        try:
            stats = reader.stats()
        finally:
            reader.close()
    except (OSError, sqlite3.Error):
        return None
    return SpoolHealth(
        waiting_bytes=stats.waiting_bytes,
        max_bytes=max_bytes,
        dropped=stats.dropped,
        refused=stats.refused,
        put_aside=stats.put_aside,
    )
