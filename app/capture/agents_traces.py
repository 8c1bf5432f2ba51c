"""Traces of the Agents SDK become completion events: one a trace, also of runs that raise."""

import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from weakref import WeakSet

from app.capture.ports import (
    Captures,
    Identity,
    Outcome,
    Quietly,
    error_code,
    labels,
    name,
    outcome_of,
    stable_event_id,
    succeeded,
)
from app.capture.usage_tally import UsageTally

try:
    from agents.tracing import Span, Trace, TracingProcessor, get_current_trace
    from agents.tracing.traces import ReattachedTrace
except ImportError as error:  # pragma: no cover - the package requires it
    raise ImportError("app.capture.agents_sdk needs the Agents SDK: pip install 'openai-agents>=0.24'.") from error

NO_TRACE: Final = "no-op"
"""The id of every trace where tracing is switched off."""
MAX_OPEN_TRACES: Final = 1_000
MAX_AGENTS: Final = 32
_MODEL_SPANS: Final = frozenset({"generation", "response"})
_TOOL_SPANS: Final = frozenset({"function"})
_IDENTITY: Final = ("session_id", "user_id", "organization_id")
_SLUG: Final = re.compile(r"[^a-z0-9]+")
_FIXED_MESSAGES: Final = frozenset({"Max turns exceeded", "Guardrail tripwire triggered"})
"""Messages of spans that tell a kind of error, and nothing of what was said."""


class Block(Protocol):
    """A part of the program that wants its runs' events (`capture_run`)."""

    @property
    def runtime(self) -> Captures:
        """Where its events go."""
        ...

    def observed(self) -> Identity:
        """Note that a processor captures for it; return whose session it is."""
        ...

    def hold(self, event: dict[str, Any]) -> bool:
        """Keep the event of a cancelled run until it is known why; False: the block is over."""
        ...


current_block: ContextVar[Block | None] = ContextVar("current_block", default=None)
"""The block around whatever runs now."""

_PROCESSORS: Final["WeakSet[CompletionTraceProcessor]"] = WeakSet()


@dataclass(slots=True)
class _OpenTrace:
    key: str
    name: str
    group_id: str | None
    metadata: Mapping[str, Any]
    handled: int
    """Identity of the exception that the program was handling when the trace began, which is not the trace's."""
    identity: Identity = field(default_factory=Identity)
    block: Block | None = None
    root_span: str | None = None
    """Set: a paused run that goes on; its first span stands for the trace, which is not opened again."""
    has_begun: bool = False
    """Whether a turn, a model call or a tool has begun."""
    opened: int = 1
    started_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    began_s: float = field(default_factory=time.monotonic)
    calls: UsageTally = field(default_factory=UsageTally)
    runs: UsageTally = field(default_factory=UsageTally)
    agents: dict[str, None] = field(default_factory=dict[str, None])
    tool_calls: int = 0
    below_tools: set[str] = field(default_factory=set[str])
    failure: Outcome | None = None
    content: str | None = None


class CompletionTraceProcessor(TracingProcessor):
    """Captures one `session.completed` a trace; register it by `agents.add_trace_processor`.

    The session's id is `session_id` of the trace's metadata, else its group id, else the trace's own id; `user_id`
    and `organization_id` come from the metadata too. The event's id is made of the trace's, so that whoever captures
    the same trace again makes no second event. A trace that nobody ends is given up once `max_open_traces` younger
    ones are open.
    """

    def __init__(
        self, runtime: Captures, *, session_type: str = "autonomous", max_open_traces: int = MAX_OPEN_TRACES
    ) -> None:
        self.runtime = runtime
        self._session_type = session_type
        self._max_open_traces = max(1, max_open_traces)
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _OpenTrace] = OrderedDict()
        self._abandoned = 0
        self._quietly = Quietly()
        _PROCESSORS.add(self)

    @property
    def open_traces(self) -> int:
        """Traces that have not ended yet."""
        return len(self._open)

    @property
    def abandoned(self) -> int:
        """Traces that were given up, exactly: nothing was captured of them."""
        return self._abandoned

    def on_trace_start(self, trace: Trace) -> None:
        """Open the trace's account."""
        with self._quietly:
            if trace.trace_id != NO_TRACE:
                self._start(trace, key=trace.trace_id)

    def on_trace_end(self, trace: Trace) -> None:
        """Capture the trace's event."""
        with self._quietly:
            self._end(trace.trace_id)

    def on_span_start(self, span: Span[Any]) -> None:
        """Note what runs inside of a tool, whose failure is told to the model and not to the caller."""
        with self._quietly:
            with self._lock:
                opened = self._open.get(span.trace_id)
            if opened is None:
                self._resume(span)
            else:
                _note_start(opened, span)

    def on_span_end(self, span: Span[Any]) -> None:
        """Add what the span tells to its trace's account."""
        with self._quietly:
            with self._lock:
                opened = self._open.get(span.trace_id)
                if opened is not None:
                    _account(opened, span)
            if opened is not None and opened.root_span == span.span_id:
                self._end(span.trace_id)

    def shutdown(self) -> None:
        """Give up what is still open: a process that ends knows nothing of how these would have ended."""
        with self._lock:
            self._abandoned += len(self._open)
            self._open.clear()

    def force_flush(self) -> None:
        """Do nothing: an event is handed on when its trace ends."""

    def tell(self, trace_id: str, identity: Identity, content: str | None = None) -> bool:
        """Add what hooks know of an open trace; return whether it is open, for then they need not capture it."""
        with self._lock:
            opened = self._open.get(trace_id)
            if opened is None:
                return False
            opened.identity.update(identity)
            opened.content = content or opened.content
            return True

    def _start(self, trace: Trace, *, key: str, root_span: str | None = None) -> None:
        block = current_block.get()
        if block is not None and block.runtime is not self.runtime:
            block = None
        metadata: Any = getattr(trace, "metadata", None)
        opened = _OpenTrace(
            key=key,
            name=trace.name,
            group_id=name(getattr(trace, "group_id", None)),
            metadata=metadata if isinstance(metadata, Mapping) else {},
            handled=id(sys.exc_info()[1]),
            identity=Identity() if block is None else Identity(**block.observed()),
            block=block,
            root_span=root_span,
        )
        with self._lock:
            same = self._open.get(trace.trace_id)
            if same is not None:
                same.opened += 1
                return
            self._open[trace.trace_id] = opened
            while len(self._open) > self._max_open_traces:
                self._open.popitem(last=False)
                self._abandoned += 1

    def _resume(self, span: Span[Any]) -> None:
        trace = get_current_trace()
        if span.parent_id is None and isinstance(trace, ReattachedTrace) and trace.trace_id == span.trace_id:
            self._start(trace, key=f"{span.trace_id}:{span.span_id}", root_span=span.span_id)

    def _end(self, trace_id: str) -> None:
        with self._lock:
            opened = self._open.get(trace_id)
            if opened is None:
                return
            opened.opened -= 1
            if opened.opened > 0:
                return
            del self._open[trace_id]
        raised = sys.exc_info()[1]  # of whoever leaves the trace, for it ends while the exception passes
        if raised is not None and id(raised) != opened.handled:
            outcome = outcome_of(raised)
        else:
            outcome = opened.failure or succeeded()
        event = _event(opened, trace_id, outcome, self._session_type)
        held = outcome["status"] == "user_terminated" and opened.block is not None and opened.block.hold(event)
        if not held:
            self.runtime.capture(event)


def observer_of(trace_id: str, runtime: Captures) -> CompletionTraceProcessor | None:
    """Return the processor that will capture this trace for the same runtime, if there is one."""
    for processor in tuple(_PROCESSORS):
        if processor.runtime is runtime and processor.tell(trace_id, Identity()):
            return processor
    return None


def trace_event_id(key: str) -> str:
    """Return the id of a trace's event."""
    return stable_event_id("agents.trace", key)


def trace_identity(group_id: Any, metadata: Any) -> Identity:
    """Return whose session a trace belongs to, as far as its metadata and its group tell."""
    found = Identity()
    if isinstance(metadata, Mapping):
        for key in _IDENTITY:
            known = name(metadata.get(key))
            if known is not None:
                found[key] = known
    group = name(group_id)
    if group is not None:
        found.setdefault("session_id", group)
    return found


def _note_start(opened: _OpenTrace, span: Span[Any]) -> None:
    kind = span.span_data.type
    if not opened.has_begun and (kind in _TOOL_SPANS or (kind == "turn" and span.span_data.turn > 1)):
        # A paused run that goes on elsewhere has its first part's id, and is yet another part.
        opened.key = f"{span.trace_id}:{span.span_id}"
    opened.has_begun = opened.has_begun or kind in _MODEL_SPANS or kind in _TOOL_SPANS or kind == "turn"
    if kind in _TOOL_SPANS or span.parent_id in opened.below_tools:
        opened.below_tools.add(span.span_id)


def _account(opened: _OpenTrace, span: Span[Any]) -> None:
    data = span.span_data
    nested = span.span_id in opened.below_tools
    opened.below_tools.discard(span.span_id)
    if data.type in _MODEL_SPANS:
        response = getattr(data, "response", None)
        opened.calls.add(data.usage, getattr(data, "model", None) or getattr(response, "model", None))
    elif data.type == "task" and not nested and data.usage:
        opened.runs.add(data.usage)
    elif data.type in _TOOL_SPANS:
        opened.tool_calls += 1
    elif data.type == "agent":
        if len(opened.agents) < MAX_AGENTS:
            opened.agents[str(data.name)] = None
        if not nested:
            opened.failure = _failure(span)


def _failure(span: Span[Any]) -> Outcome | None:
    # The last agent decides: a run that failed and was tried again within the same trace has not failed.
    if not span.error:
        return None
    raised = sys.exc_info()[1]
    message = span.error["message"]
    if message in _FIXED_MESSAGES:
        code = _SLUG.sub("_", message.lower())
    else:
        code = "agent_run_failed" if raised is None else error_code(raised)
    return {"status": "error", "error_code": code}


def _event(opened: _OpenTrace, trace_id: str, outcome: Outcome, session_type: str) -> dict[str, Any]:
    # A run's own total holds its nested agents; the calls hold runs that a tool has started with a context of its own.
    most, other = (opened.calls, opened.runs) if _more(opened.calls, opened.runs) else (opened.runs, opened.calls)
    counted, also = most.event_fields(), other.event_fields()
    identity: Identity = {"session_id": trace_id, **trace_identity(opened.group_id, opened.metadata)}
    identity.update(opened.identity)
    given = {key: value for key, value in opened.metadata.items() if key not in _IDENTITY}
    agents = list(opened.agents)
    event: dict[str, Any] = {
        "event_id": trace_event_id(opened.key),
        "session_type": session_type,
        **{key: value for key, value in identity.items() if key != "metadata"},
        "start_time": opened.started_ms,
        "end_time": time.time_ns() // 1_000_000,
        "duration_ms": round((time.monotonic() - opened.began_s) * 1_000),
        "tool_call_count": opened.tool_calls,
        "outcome": outcome,
        "metadata": {
            **labels(given),
            **labels(identity.get("metadata")),
            "workflow": opened.name,
            "trace_id": trace_id,
            "agents": agents,
        },
    }
    if "usage" in counted:
        event["usage"] = {**also.get("usage", {}), **counted["usage"]}
    if opened.calls.models:
        event["models"] = opened.calls.models
    if agents and name(agents[-1]):
        event["agent"] = agents[-1]
    if opened.content:
        event["final_output"] = opened.content
    return event


def _more(one: UsageTally, other: UsageTally) -> bool:
    return (one.total_tokens, one.requests) > (other.total_tokens, other.requests)
