"""Runs: one user input to its final answer, its options, its result, and what its last transaction writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from app.domain.models.agents import HandoffHistory
from app.domain.models.conversations import Caller, Item, SessionMode
from app.domain.models.events import SequencedEvent
from app.domain.models.usage import CallUsage, TokenUsage


class RunStatus(StrEnum):
    """Where a run stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATUSES = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one run may set for itself; None or empty means the agent's or the settings' value."""

    model: str | None = None
    """Overrides the model of every agent in the run."""
    model_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the SDK's `ModelSettings`, e.g. `{"temperature": 0}`."""
    max_turns: int | None = None
    timeout_s: float | None = None
    """Seconds for the whole run; then it is cancelled with reason `timeout`."""
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Context variables: prompt templates and tools read them; they are not sent to the model by themselves."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The caller's own values, kept with the run and in its completion event; never in a prompt."""
    handoff_history: HandoffHistory | None = None
    """What agents see after a handoff that sets no filter of its own."""
    output_schema: Mapping[str, Any] | None = None
    """JSON schema that the answer must follow."""
    output_type: type[Any] | None = None
    """A Python type that the answer must follow; at most one of this and `output_schema`."""
    history_items: int | None = None
    """How many of the latest history items the model sees; 0 for none."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One input for an agent."""

    caller: Caller
    input: str | Sequence[Item]
    """The user's text, or input items (text, images, files) in the Responses format."""
    agent: str | None = None
    """None: the conversation's agent, else the default agent."""
    conversation_id: str | None = None
    """None: a new conversation."""
    options: RunOptions = field(default_factory=RunOptions)
    stream: bool = False
    """True: model calls are streamed and deltas are told; False: whole answers."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that this process holds: its row, without what it produced."""

    id: str
    conversation_id: str
    caller: Caller
    agent: str
    position: int
    """1 for the first run of the conversation; runs of one conversation are executed in this order."""
    input: tuple[Item, ...]
    options: RunOptions
    stream: bool
    session_id: str
    """The key of the conversation's history in the SDK's tables."""
    provider_conversation_id: str | None
    session_mode: SessionMode
    fence: int
    """The number of the claim; a write with an older one is refused."""
    attempts: int
    """How many processes have claimed the run, this one included."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run this process may execute, and the history it starts from."""

    run: Run
    history: tuple[Item, ...]
    """The latest items of the conversation, oldest first, whole call-and-output pairs only."""


@dataclass(frozen=True, slots=True)
class ToolCallRecord:
    """A tool call of a run."""

    call_id: str
    name: str
    arguments: str
    output: str | None
    """None when the call did not finish."""
    agent: str
    duration_ms: int | None
    scope: str = ""


@dataclass(frozen=True, slots=True)
class HandoffRecord:
    """A handoff of a run."""

    from_agent: str
    to_agent: str


@dataclass(frozen=True, slots=True)
class Timings:
    """When a run was accepted, executed and ended, and how long it took to say its first word."""

    created_at: datetime
    started_at: datetime
    finished_at: datetime
    first_token_ms: int | None
    """From the start of execution to the first delta; None for runs that were not streamed."""

    @property
    def duration_ms(self) -> int:
        """Milliseconds of execution, without the time in the queue."""
        return max(0, round((self.finished_at - self.started_at).total_seconds() * 1000))


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why a run ended badly, fit for a client."""

    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    run_id: str
    conversation_id: str
    agent: str
    """The key of the agent that answered last."""
    status: RunStatus
    output: Any
    """Text, or JSON values for a structured output; None unless completed."""
    items: tuple[Item, ...]
    """The items the run added to the history, input included."""
    tool_calls: tuple[ToolCallRecord, ...]
    handoffs: tuple[HandoffRecord, ...]
    usage: TokenUsage
    calls: tuple[CallUsage, ...]
    """One entry per model call, nested agents' included."""
    cost_usd: Decimal | None
    """The sum over priced calls; None when no call had a known price."""
    response_ids: tuple[str, ...]
    timings: Timings
    trace_id: str | None
    error: ErrorInfo | None


StepKind = Literal["model", "tool", "guardrail"]


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded call of a run; `key` is its path (`/m1`, `/t:<call_id>`, `/t:<call_id>/m1`, `/g:<name>`)."""

    key: str
    kind: StepKind
    name: str
    agent: str
    state: Literal["done", "failed"]
    request_hash: str | None
    result: Any
    """JSON values: a model call's output items, a tool's output, a guardrail's verdict."""
    response_id: str | None
    started_at: datetime
    duration_ms: int


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What the execution of a run produced, before it is priced and recorded."""

    status: RunStatus
    agent: str
    output: Any
    output_text: str
    items: tuple[Item, ...]
    steps: tuple[Step, ...]
    calls: tuple[CallUsage, ...]
    tool_calls: tuple[ToolCallRecord, ...]
    handoffs: tuple[HandoffRecord, ...]
    response_ids: tuple[str, ...]
    spans: tuple[Mapping[str, Any], ...]
    trace_id: str | None
    started_at: datetime
    first_token_ms: int | None
    error: ErrorInfo | None


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message for people that the end of a run adds."""

    role: Literal["user", "assistant"]
    text: str
    agent: str | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything the last transaction of a run writes, all of it or nothing."""

    result: RunResult
    messages: tuple[NewMessage, ...]
    steps: tuple[Step, ...]
    events: tuple[SequencedEvent, ...]
    spans: tuple[Mapping[str, Any], ...]
    completion: "CompletionEvent"
    title: str | None
    """A title for a conversation that has none yet."""


@dataclass(frozen=True, slots=True)
class CompletionEvent:
    """`session.completed` or `run.failed`: what billing, analytics and audit are told; holds no content."""

    id: str
    """UUID version 7; stable over every delivery."""
    type: str
    version: int
    organization_id: str
    user_id: str | None
    session_id: str
    """The conversation."""
    run_id: str
    outcome: Literal["success", "error", "timeout", "user_terminated"]
    payload: Mapping[str, Any]
    """Usage, cost, timings, message count and metadata, apart from content."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be started: minted here, decided by the journal."""

    id: str
    caller: Caller
    agent: str | None
    """None: the conversation's agent (or the one that answered last, with `sticky_agent`), else `default_agent`."""
    default_agent: str
    sticky_agent: bool
    input: tuple[Item, ...]
    options: RunOptions
    stream: bool
    conversation_id: str | None
    """None: open `new_conversation_id`."""
    new_conversation_id: str
    provider: str
    provider_conversation_id: str | None
    history_items: int
    """How many history items to load at most."""


@dataclass(frozen=True, slots=True)
class StartedRun:
    """The run as the journal accepted it."""

    run: Run
    history: tuple[Item, ...] | None
    """The history to start from; None when the run waits for an earlier one of its conversation."""
