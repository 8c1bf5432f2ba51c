"""Tool calls that wait for a person."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

ApprovalState = Literal["pending", "approved", "rejected", "expired"]


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A tool call that the run cannot make before a person allows it."""

    step: str
    """The path key of the call in its run; unique there."""
    call_id: str
    tool: str
    arguments: str
    """The model's JSON text."""
    agent: str
    scope: str = ""
    """The path of the nested agent it belongs to; empty for the run's own."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A request and what became of it."""

    run_id: str
    conversation_id: str
    request: ApprovalRequest
    state: ApprovalState
    always: bool
    """Whether the decision holds for every later call of the tool in this run."""
    message: str | None
    """What the model is told of a rejection; None: a standard text."""
    decided_by: str | None
    requested_at: datetime
    expires_at: datetime | None
    """When the request counts as rejected; None once it is decided."""
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's answer to one request."""

    call_id: str
    """The call's id, or its step key where an id occurs twice."""
    approve: bool
    message: str | None = None
    """Told to the model with a rejection."""
    always: bool = False
    """Hold on to this answer for every later call of the same tool in this run."""
