"""What is deleted for its age."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Expiry:
    """From which moment on rows of finished runs are old enough to be deleted; None: never."""

    deltas_before: datetime | None
    """Streamed deltas; whole messages and all other events stay."""
    journal_before: datetime | None
    """Steps, and all events but the last one."""
    completions_before: datetime | None = None
    """Completion events that no destination needs any more."""
    stateless_before: datetime | None = None
    """Conversations that were not to be kept."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, or would be."""

    delta_rows: int
    event_rows: int
    step_rows: int
    completion_rows: int = 0
    conversation_rows: int = 0
    """Conversations that were not to be kept; with each go its history and its runs."""
