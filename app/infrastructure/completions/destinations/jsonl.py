"""Appends events to a file of JSON lines that is put away when it has become large."""

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.domain.delivery_ports import SendFailed
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import DestinationSettings, Message
from app.infrastructure.persistence import json_text


class JsonlSink:
    """One file, whose lines are on the disk when `send` returns.

    Options: `max_bytes` (100 MB) after which it is renamed to one with the time in its name; `keep_files` (0: all).
    """

    def __init__(self, settings: DestinationSettings) -> None:
        """Check the description.

        Raises:
            ConfigurationError: no file is named, or its folder does not exist.
        """
        self._path = Path(settings.endpoint.removeprefix("file://"))
        if not settings.endpoint or not self._path.parent.is_dir():
            raise ConfigurationError(f"destinations.{settings.name}.endpoint: a file in an existing folder is needed.")
        self._max_bytes = int(settings.options.get("max_bytes", 100_000_000))
        self._keep_files = int(settings.options.get("keep_files", 0))
        self._writing = asyncio.Lock()

    async def send(self, batch: Sequence[Message]) -> int | None:
        """Append the events; see the port."""
        lines = "".join(f"{json_text.encode(message.body)}\n" for message in batch).encode("ascii")
        async with self._writing:
            try:
                await asyncio.to_thread(self._append, lines)
            except OSError as error:
                raise SendFailed(f"The file cannot be written: {type(error).__name__}.") from error

    async def aclose(self) -> None:
        """Nothing is open between two batches."""

    def _append(self, lines: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size >= max(1, self._max_bytes):
            self._put_away()
        with self._path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                # A process that died while it wrote has left half a line: ours must not begin in it.
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _put_away(self) -> None:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._path.rename(self._path.with_name(f"{self._path.stem}-{moment}{self._path.suffix}"))
        if self._keep_files:
            old = sorted(self._path.parent.glob(f"{self._path.stem}-*Z{self._path.suffix}"))
            for path in old[: -self._keep_files]:
                path.unlink(missing_ok=True)
