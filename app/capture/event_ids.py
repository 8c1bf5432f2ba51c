"""Mints event ids at half the price of `new_event_id`, which asks the operating system for each."""

import os
import random
from collections.abc import Callable
from typing import Final

_VARIANT: Final = {f"{digit:x}": "89ab"[digit & 3] for digit in range(16)}
"""The digit that begins with the two bits of the variant, and goes on with two of the random ones."""


class EventIds:
    """UUIDs of version 7 with 74 random bits, of a generator that only this object draws from."""

    def __init__(self) -> None:
        """Seed it with 2,500 bytes of the operating system's."""
        self._draw: Callable[[int], int] = random.Random().getrandbits
        self._prefix = (-1, "")

    def mint(self, millis: int) -> str:
        """Return an id of a moment, milliseconds since 1970: 36 characters."""
        known, prefix = self._prefix
        if known != millis:
            prefix = f"{millis >> 16 & 0xFFFFFFFF:08x}-{millis & 0xFFFF:04x}-7"
            self._prefix = (millis, prefix)
        # Written once and cut, which costs half of what writing each part does.
        digits = f"{self._draw(76):019x}"
        return f"{prefix}{digits[:3]}-{_VARIANT[digits[3]]}{digits[4:7]}-{digits[7:]}"

    def seed(self) -> None:
        """Begin anew: the child of a fork must not repeat its parent's ids."""
        self._draw = random.Random().getrandbits


EVENT_IDS: Final = EventIds()

os.register_at_fork(after_in_child=EVENT_IDS.seed)
