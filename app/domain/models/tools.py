"""What a tool promises about being called again, and what a running call may ask of us."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_ATTRIBUTE: Final = "__durable_tool_policy__"
_APPROVAL: Final = "__durable_tool_needs_approval__"


class ToolPolicy(StrEnum):
    """What happens to a tool call whose process died before its output was on disk."""

    IDEMPOTENT = "idempotent"
    """It is run again: at least once. For tools that only read."""
    IDEMPOTENCY_KEY = "idempotency_key"
    """It is run again with the same `idempotency_key`: once, if whom it calls honours the key."""
    TRANSACTIONAL = "transactional"
    """Its writes through `session` commit together with its step: exactly once, in our database."""
    AT_MOST_ONCE = "at_most_once"
    """It is not run again; the model is told that the outcome is unknown. The default."""


DEFAULT_POLICY: Final = ToolPolicy.AT_MOST_ONCE


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The tool call that the calling code is part of."""

    run_id: str
    call_id: str
    tool: str
    idempotency_key: str
    """`<run id>:<step path>`: the same for every attempt of this call, and for no other call."""
    attempt: int
    """The number of the execution of the run, from 1; above 1 after a crash, a hand-back or an approval."""
    session: Any = None
    """An SQLAlchemy `AsyncSession` on our database for a `transactional` tool, else None.

    What is written through it commits with the call's step. Do not commit or close it: it is done for you, and undone
    when the tool raises.
    """


CURRENT_TOOL_CALL: Final[ContextVar[ToolCall | None]] = ContextVar("durable_agents_tool_call", default=None)


def current_tool_call() -> ToolCall:
    """Return the tool call that the calling code is part of.

    Raises:
        LookupError: it is not part of one.
    """
    call = CURRENT_TOOL_CALL.get()
    if call is None:
        raise LookupError("This code does not run inside a tool call of a durable run.")
    return call


def tool_policy(policy: ToolPolicy | str) -> Callable[[_T], _T]:
    """Declare the policy of a tool: above `@function_tool`, below it, or on a plain function.

    Raises:
        ValueError: there is no such policy.
    """
    chosen = ToolPolicy(policy)

    def declare(tool: _T) -> _T:
        setattr(tool, _ATTRIBUTE, chosen)
        return tool

    return declare


def declared_policy(tool: object) -> ToolPolicy | None:
    """Return the policy that was declared on a tool or function; None when none was."""
    policy = getattr(tool, _ATTRIBUTE, None)
    return policy if isinstance(policy, ToolPolicy) else None


def needs_approval(function: _T) -> _T:
    """Let a person decide about every call of a tool: for plain functions; the SDK's tools have a setting for it."""
    setattr(function, _APPROVAL, True)
    return function


def declared_approval(function: object) -> bool:
    """Tell whether a person must decide about the calls of a plain function."""
    return getattr(function, _APPROVAL, False) is True
