"""What a run tells while it goes on: small frozen events, one class a kind.

Every event of a run gets the next sequence number, from 1, without gaps; the last one is `RunCompleted`, `RunFailed`
or `RunCancelled`, and there is exactly one of these. `scope` is the path of the nested agent that the event comes
from (`""` for the run's own agents, `/t:<call_id>` for an agent used as a tool).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from app.domain.models.usage import TokenUsage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run is being executed.

    `attempt` is above 1 when an earlier process was lost or handed it back, or the run waited for a person. What the
    earlier attempt told without its being recorded is void: text of a model call that has no `usage` event yet.
    """

    type: ClassVar[str] = "run.started"
    run_id: str
    conversation_id: str
    agent: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ModelCallStarted:
    """A model call begins; text of the same `step` from an earlier attempt is void."""

    type: ClassVar[str] = "model.started"
    step: str
    agent: str
    model: str
    attempt: int
    scope: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of an answer."""

    type: ClassVar[str] = "text.delta"
    delta: str
    item_id: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More text of the model's reasoning or of its summary."""

    type: ClassVar[str] = "reasoning.delta"
    delta: str
    item_id: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """More text of a refusal."""

    type: ClassVar[str] = "refusal.delta"
    delta: str
    item_id: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    """More of the JSON arguments of a tool call that the model is writing."""

    type: ClassVar[str] = "tool.arguments.delta"
    delta: str
    item_id: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool is about to run; `arguments` is the model's JSON text."""

    type: ClassVar[str] = "tool.started"
    call_id: str
    name: str
    arguments: str
    agent: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """A tool ended; `output` is what the model will read."""

    type: ClassVar[str] = "tool.output"
    call_id: str
    name: str
    output: str
    agent: str
    duration_ms: int
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ItemDone:
    """An item of a model's answer is whole: message, reasoning, call; what tools answer is told by `ToolOutput`.

    All items of an answer are told when it ends, before its `usage`. Deltas are deleted in time, these stay.
    """

    type: ClassVar[str] = "item.done"
    item: Mapping[str, Any]
    """In the Responses format; its `id` is the `item_id` of its deltas where the endpoint gives it one."""
    step: str
    agent: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class HandoffOccurred:
    """One agent handed the conversation to another."""

    type: ClassVar[str] = "handoff"
    from_agent: str
    to_agent: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class AgentUpdated:
    """Another agent answers from here on."""

    type: ClassVar[str] = "agent.updated"
    agent: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """The run waits for a person to allow a tool call."""

    type: ClassVar[str] = "approval.requested"
    call_id: str
    name: str
    arguments: str
    agent: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class RunWaiting:
    """The run has stopped until the approvals it asked for are decided; it goes on with `RunStarted`."""

    type: ClassVar[str] = "run.waiting"
    run_id: str
    conversation_id: str
    approvals: int
    """How many requests are undecided."""


@dataclass(frozen=True, slots=True)
class UsageReported:
    """A model call ended and was metered."""

    type: ClassVar[str] = "usage"
    step: str
    model: str
    tokens: TokenUsage
    accuracy: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class RunCompleted:
    """The end: the answer. `output` is text, or JSON for a structured output; `cost_usd` is a decimal or None."""

    type: ClassVar[str] = "run.completed"
    run_id: str
    conversation_id: str
    agent: str
    output: Any
    tokens: TokenUsage
    cost_usd: str | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The end: an error with a stable code and a message fit for a client."""

    type: ClassVar[str] = "run.failed"
    run_id: str
    conversation_id: str
    code: str
    message: str
    tokens: TokenUsage
    cost_usd: str | None
    duration_ms: int
    details: Mapping[str, Any]
    """Facts of the error, e.g. `retry_after_s`; empty when it has none."""


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """The end: someone cancelled the run, or its time ran out (`reason`)."""

    type: ClassVar[str] = "run.cancelled"
    run_id: str
    conversation_id: str
    reason: str
    message: str
    tokens: TokenUsage
    cost_usd: str | None
    duration_ms: int


Delta = TextDelta | ReasoningDelta | RefusalDelta | ToolArgumentsDelta
TerminalEvent = RunCompleted | RunFailed | RunCancelled
RunEvent = (
    RunStarted
    | ModelCallStarted
    | Delta
    | ToolStarted
    | ToolOutput
    | ItemDone
    | HandoffOccurred
    | AgentUpdated
    | ApprovalRequested
    | RunWaiting
    | UsageReported
    | TerminalEvent
)

MAX_SEQUENCE = (1 << 31) - 1
"""The greatest number that an event of a run may have."""
DELTA_TYPES = frozenset({TextDelta, ReasoningDelta, RefusalDelta, ToolArgumentsDelta})
TERMINAL_TYPES = frozenset({RunCompleted, RunFailed, RunCancelled})
STOP_TYPES = TERMINAL_TYPES | {RunWaiting}
"""After one of these nothing comes for now: a reader that was told one has read what there is."""


@dataclass(frozen=True, slots=True)
class SequencedEvent:
    """An event and its number in its run."""

    sequence: int
    event: RunEvent


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Neighbouring events for a reader, and how far the record on disk goes.

    An event above `recorded` is told early: if the process dies now, another attempt gives its number to another
    event. A reader that wants to go on later remembers the smaller of `recorded` and what it has read.
    """

    events: Sequence[SequencedEvent]
    """In order, without gaps; empty when the batch only tells that earlier ones are on disk now."""
    recorded: int
