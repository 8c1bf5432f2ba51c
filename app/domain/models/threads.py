"""Conversations under the names that clients of other protocols give them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation that a client knows by a name of its own."""

    conversation_id: str
    agent: str | None
    """The agent it was opened for; a run may name another."""
