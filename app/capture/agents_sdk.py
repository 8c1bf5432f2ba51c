"""Capture for programs that run the Agents SDK without this server: hooks, a block around runs, a trace processor."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Unpack
from weakref import WeakKeyDictionary

from app.capture.agents_traces import (
    NO_TRACE,
    Block,
    CompletionTraceProcessor,
    current_block,
    observer_of,
    trace_event_id,
    trace_identity,
)
from app.capture.ports import Captures, Identity, Outcome, Quietly, excerpt, labels, name, outcome_of, succeeded
from app.capture.usage_tally import UsageTally
from app.domain.identifiers import new_event_id

try:
    from agents import RunContextWrapper, RunHooks
    from agents.tracing import Trace, get_current_trace
    from agents.usage import Usage
except ImportError as error:  # pragma: no cover - the package requires it
    raise ImportError("app.capture.agents_sdk needs the Agents SDK: pip install 'openai-agents>=0.24'.") from error

__all__ = ["CaptureHooks", "CompletionTraceProcessor", "capture_run"]

MAX_OPEN_RUNS: Final = 1_000
_NOTHING: Final = {
    "requests": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "cached_tokens": 0,
    "reasoning_tokens": 0,
}
Identify = Callable[[RunContextWrapper[Any]], Identity]
"""Says from a run's context whose session it is, for hooks that many runs share."""


@dataclass(slots=True)
class _Run:
    usage: Usage
    """The run's own sum, to which nested agents add; kept so that its identity stays the run's."""
    before: dict[str, int]
    key: str | None
    """What the event's id is made of; None: the run is not traced."""
    identity: Identity
    observer: CompletionTraceProcessor | None
    trace_id: str | None
    depth: int = 0
    started_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    began_s: float = field(default_factory=time.monotonic)
    agents: dict[str, None] = field(default_factory=dict[str, None])
    models: dict[str, None] = field(default_factory=dict[str, None])
    tool_calls: int = 0
    content: str | None = None


class CaptureHooks(RunHooks[Any]):
    """Captures one `session.completed` a run, when its outermost agent has answered.

    Give them to a run: `Runner.run(agent, text, hooks=CaptureHooks(runtime, session_id="s1"))`. One object may serve
    many runs at once. The SDK tells hooks nothing of a run that raises: `capture_run` or `CompletionTraceProcessor`
    sees those. Where a processor of the same runtime watches the trace, it captures and the hooks tell it what they
    know. A run that pauses for an approval is captured when it has been resumed with the same state and has ended.
    """

    def __init__(
        self,
        runtime: Captures,
        *,
        identify: Identify | None = None,
        content: bool = True,
        max_open_runs: int = MAX_OPEN_RUNS,
        **identity: Unpack[Identity],
    ) -> None:
        self._runtime = runtime
        self._identify = identify
        self._content = content
        self._max_open_runs = max(1, max_open_runs)
        self._identity = identity
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Run] = OrderedDict()
        self._runs_of_traces: WeakKeyDictionary[Trace, int] = WeakKeyDictionary()
        self._abandoned = 0
        self._quietly = Quietly()

    @property
    def open_runs(self) -> int:
        """Runs whose end nobody has seen yet."""
        return len(self._open)

    @property
    def abandoned(self) -> int:
        """Runs that were given up, exactly: nothing was captured of them."""
        return self._abandoned

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        """Count the agent in."""
        with self._quietly:
            run = self._run(context, is_fresh=True)
            run.depth += 1
            run.agents[agent.name] = None

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        """Capture the run if this was its outermost agent."""
        with self._quietly:
            run = self._run(context)
            run.agents[agent.name] = None
            run.depth -= 1
            if run.depth <= 0:
                run.content = excerpt(output) if self._content else None
                self._ended(run)

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        """Note which model answered."""
        with self._quietly:
            model = agent.model if isinstance(agent.model, str) else getattr(agent.model, "model", None)
            known = name(model)
            if known is not None:
                self._run(context).models[known] = None

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        """Count the call."""
        with self._quietly:
            self._run(context).tool_calls += 1

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        """Count the first agent out: the SDK does not tell its end."""
        with self._quietly:
            self._run(context).depth -= 1

    def _run(self, context: Any, *, is_fresh: bool = False) -> _Run:
        usage: Usage = context.usage
        with self._lock:
            run = self._open.get(id(usage))
            if run is not None:
                return run
        run = self._new_run(context, usage, is_fresh=is_fresh)
        with self._lock:
            self._take_over(run)
            run = self._open.setdefault(id(usage), run)
            while len(self._open) > self._max_open_runs:
                self._open.popitem(last=False)
                self._abandoned += 1
        return run

    def _take_over(self, run: _Run) -> None:
        # A resumed run has a new sum that begins with the old one's figures.
        figures = _figures(run.usage)
        if figures == _NOTHING:
            return
        for key, paused in self._open.items():
            if paused.trace_id == run.trace_id and _figures(paused.usage) == figures:
                run.before, run.key, run.agents = paused.before, paused.key, paused.agents
                run.tool_calls, run.started_ms, run.began_s = paused.tool_calls, paused.started_ms, paused.began_s
                del self._open[key]
                return

    def _new_run(self, context: Any, usage: Usage, *, is_fresh: bool) -> _Run:
        # A run whose first agent nobody has seen start was paused in another process: what it used there counts here.
        before = _figures(usage) if is_fresh else _NOTHING
        trace = get_current_trace()
        told = Identity(**self._identity)
        if self._identify is not None:
            told.update(self._identify(context))
        if trace is None or trace.trace_id == NO_TRACE:
            return _Run(usage, before, None, told, None, None)
        observer = observer_of(trace.trace_id, self._runtime)
        if observer is not None:
            observer.tell(trace.trace_id, told)
        with self._lock:
            number = self._runs_of_traces[trace] = self._runs_of_traces.get(trace, 0) + 1
        key = trace.trace_id if number == 1 else f"{trace.trace_id}:{number}"
        found = trace_identity(getattr(trace, "group_id", None), getattr(trace, "metadata", None))
        found.update(told)
        return _Run(usage, before, key, found, observer, trace.trace_id)

    def _ended(self, run: _Run) -> None:
        with self._lock:
            self._open.pop(id(run.usage), None)
        if not self._tell_observer(run):
            self._runtime.capture(_event([run], succeeded(), run.identity))

    def _tell_observer(self, run: _Run) -> bool:
        return (
            run.observer is not None
            and run.trace_id is not None
            and run.observer.tell(run.trace_id, run.identity, run.content)
        )


class _BlockHooks(CaptureHooks):
    """Hooks that keep what they have seen until the block around them ends."""

    def __init__(self, runtime: Captures, *, identify: Identify | None, content: bool, identity: Identity) -> None:
        super().__init__(runtime, identify=identify, content=content, **identity)
        self.ended: list[_Run] = []

    def seen(self) -> list[_Run]:
        """Return every run, whether its end was seen or not."""
        with self._lock:
            return [*self.ended, *self._open.values()]

    def _ended(self, run: _Run) -> None:
        with self._lock:
            self._open.pop(id(run.usage), None)
        self._tell_observer(run)
        self.ended.append(run)


class _CapturedBlock(Block):
    def __init__(self, hooks: _BlockHooks, runtime: Captures, identity: Identity) -> None:
        self._runtime = runtime
        self._identity = identity
        self._hooks = hooks
        self._is_observed = False
        self._is_over = False
        self._held: list[dict[str, Any]] = []
        self._token: Token[Block | None] | None = None
        self._quietly = Quietly()
        self._began_s = time.monotonic()
        self._started_ms = time.time_ns() // 1_000_000

    @property
    def runtime(self) -> Captures:
        return self._runtime

    def observed(self) -> Identity:
        self._is_observed = True
        return self._identity

    def hold(self, event: dict[str, Any]) -> bool:
        if not self._is_over:
            self._held.append(event)
        return not self._is_over

    async def __aenter__(self) -> CaptureHooks:
        self._token = current_block.set(self)
        self._began_s = time.monotonic()
        self._started_ms = time.time_ns() // 1_000_000
        return self._hooks

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        with self._quietly:
            self._is_over = True
            if self._token is not None:
                current_block.reset(self._token)
            outcome = outcome_of(error)
            for event in self._held:
                # A run that a deadline has cancelled looks like one that a user has cancelled; only here it is known.
                self._runtime.capture({**event, "outcome": outcome} if outcome["status"] == "timeout" else event)
            if not self._is_observed:
                self._runtime.capture(self._event(outcome))

    def _event(self, outcome: Outcome) -> dict[str, Any]:
        runs = self._hooks.seen()
        event = _event(runs, outcome, runs[-1].identity if runs else self._identity)
        event["start_time"] = self._started_ms
        event["duration_ms"] = round((time.monotonic() - self._began_s) * 1_000)
        return event


def capture_run(
    runtime: Captures, *, identify: Identify | None = None, content: bool = True, **identity: Unpack[Identity]
) -> _CapturedBlock:
    """Return a block that captures one event for the runs inside of it, however it is left.

    `async with capture_run(runtime, session_id="s1") as hooks:` gives the hooks to pass to `Runner.run`, or to
    `Runner.run_streamed` and its loop over the events. An exception makes the outcome `error`, a deadline around or
    within the block `timeout`, a cancellation `user_terminated`. Where a `CompletionTraceProcessor` of the same runtime
    watches, it captures, with the session that the block names. The block never changes what it is left with.
    """
    hooks = _BlockHooks(runtime, identify=identify, content=content, identity=identity)
    return _CapturedBlock(hooks, runtime, identity)


def _figures(usage: Usage) -> dict[str, int]:
    return {
        "requests": usage.requests or 0,
        "input_tokens": usage.input_tokens or 0,
        "output_tokens": usage.output_tokens or 0,
        "total_tokens": usage.total_tokens or 0,
        "cached_tokens": usage.input_tokens_details.cached_tokens or 0,
        "reasoning_tokens": usage.output_tokens_details.reasoning_tokens or 0,
    }


def _event(runs: list[_Run], outcome: Outcome, identity: Identity) -> dict[str, Any]:
    tally = UsageTally()
    agents: dict[str, None] = {}
    for run in runs:
        tally.add({figure: count - run.before[figure] for figure, count in _figures(run.usage).items()})
        agents.update(run.agents)
        for model in run.models:
            tally.add_model(model)
    key = next((run.key for run in runs if run.key is not None), None)
    last = runs[-1] if runs else None
    event: dict[str, Any] = {
        "session_id": (None if last is None else last.trace_id) or new_event_id(),
        "session_type": "autonomous",
        **{field: value for field, value in identity.items() if field != "metadata"},
        "end_time": time.time_ns() // 1_000_000,
        "tool_call_count": sum(run.tool_calls for run in runs),
        "outcome": outcome,
        "metadata": {**labels(identity.get("metadata")), "agents": list(agents)},
        **tally.event_fields(),
    }
    if last is not None:
        event["start_time"] = runs[0].started_ms
        event["duration_ms"] = round((time.monotonic() - runs[0].began_s) * 1_000)
        if agents and name(list(agents)[-1]):
            event["agent"] = list(agents)[-1]
        if last.content:
            event["final_output"] = last.content
    if key is not None:
        event["event_id"] = trace_event_id(key)
    return event
