"""Runs: one user input to its final answer, its options, its result, and what its last transaction writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from app.domain.models.agents import HandoffHistory
from app.domain.models.approvals import Approval, ApprovalRequest
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

OnBusy = Literal["queue", "reject", "interrupt"]
"""What a new input does while a run of its conversation is unfinished: wait behind it, be refused, or cancel it."""

CancelReason = Literal["user", "interrupted"]
"""Who asked for the end of a run: a person or client, or a newer input of the same conversation."""


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
    """A Python type that the answer must follow; a caller gives at most one of this and `output_schema`."""
    history_items: int | None = None
    """How many of the latest history items the model sees; 0 for none."""
    instructions: str | None = None
    """Added to the instructions of the run's agents, for this run only; not kept in the history."""
    client_tools: tuple[Mapping[str, Any], ...] = ()
    """Function tools that the caller executes, in the Responses format: `{"type": "function", "name", "description",
    "parameters", "strict"}`. A run whose model calls one completes with that call open (`RunResult.client_calls`); the
    input of the conversation's next run holds its `function_call_output`."""
    surface: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the surface that asked for the run needs to tell of it later, on any process; nothing else reads it."""


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
    idempotency_key: str | None = None
    """The client's own name for this start: the same key and request give the same run, not a second one."""
    on_busy: OnBusy | None = None
    """None: as the settings say."""
    after_run_id: str | None = None
    """The run whose answer this one follows. Of the same conversation it must be the last one, or the start is refused
    (`RunConflict`, reason `not_last`): the history holds more than its caller has seen. None: whatever is there."""
    behind_waiting: bool = True
    """False: the start is refused (`RunConflict`, reason `approval_required`) where a run of the conversation waits for
    a person, maybe for days."""
    stateless: bool = False
    """True: the new conversation is not to be kept when the run has ended; retention deletes it if nobody else does.
    Says nothing of a conversation that is there already."""


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
    """The number of the claim, from 1; a write with an older one is refused. Events call it the attempt."""
    attempts: int
    """How many processes were given the run after a lost one, the first included; hand-backs do not count."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run this process may execute, the history it starts from, and what earlier attempts have recorded."""

    run: Run
    history: tuple[Item, ...]
    """The latest items of the conversation, oldest first, whole call-and-output pairs only."""
    steps: Mapping[str, "Step"] = field(default_factory=dict[str, "Step"])
    """Recorded steps by key; empty for a first attempt."""
    calls: tuple[CallUsage, ...] = ()
    """Recorded usage of the recorded model calls, priced, in the order of their ends."""
    approvals: tuple[Approval, ...] = ()
    """Requests of earlier attempts and what became of them."""
    last_sequence: int = 0
    """The number of the last recorded event."""
    started_at: datetime | None = None
    """When the first attempt began; None for a first attempt."""
    cancel_reason: CancelReason | None = None
    """Not None: someone has asked for the end of the run; it is closed, not gone on with."""


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
    approvals: tuple[ApprovalRequest, ...] = ()
    """What a waiting run waits for; empty otherwise."""
    client_calls: tuple[str, ...] = ()
    """Ids of the calls at the end of `items` that the caller is to execute; empty when the answer is whole."""


StepKind = Literal["model", "tool", "guardrail", "mcp_list"]


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded call of a run; `key` is its path.

    `/m1` is the run's first model call, `/t:<call_id>` a tool call, `/t:<call_id>/m1` the first model call of an agent
    used as a tool, `/g:<name>` a guardrail, `/l:<server>` a listing of an MCP server's tools.
    """

    key: str
    kind: StepKind
    name: str
    agent: str
    state: Literal["started", "done", "failed"]
    """`started`: a tool that may not be repeated is about to run; its outcome is unknown until it is `done`."""
    request_hash: str | None
    result: Any
    """JSON values: a model call's output items, a tool's output, a guardrail's verdict, an MCP server's tools."""
    response_id: str | None
    started_at: datetime
    duration_ms: int


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What the execution of a run produced, beside what its log has: steps, metered calls and events."""

    status: RunStatus
    agent: str
    output: Any
    output_text: str
    items: tuple[Item, ...]
    tool_calls: tuple[ToolCallRecord, ...]
    handoffs: tuple[HandoffRecord, ...]
    response_ids: tuple[str, ...]
    spans: tuple[Mapping[str, Any], ...]
    trace_id: str | None
    started_at: datetime
    first_token_ms: int | None
    error: ErrorInfo | None
    approvals: tuple[ApprovalRequest, ...] = ()
    """What the run waits for; not empty exactly when the status is WAITING."""
    client_calls: tuple[str, ...] = ()
    """Ids of the calls that the caller is to execute; see `RunResult`."""


@dataclass(frozen=True, slots=True)
class RunBatch:
    """What one transaction in the middle of a run writes: all of it or nothing."""

    steps: tuple[Step, ...] = ()
    calls: tuple[CallUsage, ...] = ()
    """Priced usage of the model calls among the steps."""
    events: tuple[SequencedEvent, ...] = ()


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
    rest: RunBatch
    """Steps, usage and events that no earlier transaction has written; its last event is the terminal one."""
    spans: tuple[Mapping[str, Any], ...]
    completion: "CompletionEvent"
    """What billing, analytics and audit are told: how the run ended, or which approvals it waits for."""
    title: str | None
    """A title for a conversation that has none yet."""


@dataclass(frozen=True, slots=True)
class CompletionEvent:
    """`session.completed`, `run.failed` or `approval.requested`: what billing, analytics and audit are told.

    Content is under `content` in the payload, and only a request for approval has any.
    """

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
    """Usage, cost, timings, message count and metadata, or the requests that the run waits for."""
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
    on_busy: OnBusy = "queue"
    idempotency_key: str | None = None
    request_hash: str | None = None
    """A digest of the request; not None exactly when there is an idempotency key."""
    after_run_id: str | None = None
    """See `RunRequest`."""
    behind_waiting: bool = True
    """See `RunRequest`."""
    stateless: bool = False
    """See `RunRequest`."""


@dataclass(frozen=True, slots=True)
class StartedRun:
    """The run as the journal accepted it."""

    run: Run
    history: tuple[Item, ...] | None
    """The history to start from; None when the run waits for an earlier one of its conversation, or is not new."""
    existing: bool = False
    """True: an earlier start with the same idempotency key made this run."""
    interrupted: tuple[str, ...] = ()
    """Ids of runs of the conversation that were asked to end for this one."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list."""

    id: str
    conversation_id: str
    agent: str
    """The key of the agent that it was started with, or that answered last."""
    status: RunStatus
    attempts: int
    owner: str | None
    """The process that holds it; None when none does."""
    cancel_reason: CancelReason | None
    error_code: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
