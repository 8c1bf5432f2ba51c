"""Capture for LangChain: a callback that turns the outermost run of a chain or agent into one completion event."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Unpack
from uuid import UUID

from app.capture.ports import Captures, Identity, Quietly, excerpt, labels, name, outcome_of, stable_event_id
from app.capture.usage_tally import UsageTally

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.runnables.config import var_child_runnable_config
except ImportError as error:
    raise ImportError("app.capture.langchain needs langchain-core: pip install 'durable-agents[langchain]'.") from error

MAX_OPEN_RUNS: Final = 1_000
MAX_STEPS: Final = 10_000
"""Steps of one run that may be open at once; more are not followed."""
_SESSION_KEYS: Final = ("session_id", "thread_id", "conversation_id")
_MODEL_KEYS: Final = ("model", "model_name")
_USAGE_KEYS: Final = ("token_usage", "usage")
_OUTPUT_KEYS: Final = ("output", "answer", "result", "text")


@dataclass(slots=True)
class _Run:
    root: UUID
    is_captured: bool
    """False: a tool or a search that runs for itself, which is no session."""
    metadata: Mapping[str, Any]
    started_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    began_s: float = field(default_factory=time.monotonic)
    steps: set[UUID] = field(default_factory=set[UUID])
    asked: dict[UUID, tuple[int, str | None]] = field(default_factory=dict[UUID, tuple[int, str | None]])
    """Of each open model call: how many messages it was given, and the model that it named."""
    tally: UsageTally = field(default_factory=UsageTally)
    messages: int = 0
    tool_calls: int = 0
    first_token_ms: int | None = None


class SessionCompletionCallback(BaseCallbackHandler):
    """Captures one `session.completed` when the outermost run ends, by an answer, an error or a cancellation.

    Pass it to a call, `chain.invoke(text, config={"callbacks": [SessionCompletionCallback(runtime,
    session_id="s1")]})`, or to a model or chain when it is built. One object may serve many calls at once, in threads
    and tasks. Without a session id of its own, it takes `session_id`, `thread_id` or `conversation_id` of the call's
    metadata, else the run's id; `user_id` and `organization_id` likewise. The event's id is
    made of the run's id. LangChain ends a stream that is closed early like one that was read to its end.
    """

    run_inline = True
    """Called in the order of the events, without a thread of its own: each call takes microseconds."""

    def __init__(
        self,
        runtime: Captures,
        *,
        content: bool = True,
        max_open_runs: int = MAX_OPEN_RUNS,
        **identity: Unpack[Identity],
    ) -> None:
        super().__init__()
        self._runtime = runtime
        self._content = content
        self._max_open_runs = max(1, max_open_runs)
        self._identity = identity
        self._lock = threading.RLock()
        self._open: OrderedDict[UUID, _Run] = OrderedDict()
        self._roots: dict[UUID, UUID] = {}
        self._abandoned = 0
        self._quietly = Quietly()

    @property
    def open_runs(self) -> int:
        """Outermost runs that have not ended yet."""
        return len(self._open)

    @property
    def abandoned(self) -> int:
        """Outermost runs that were given up, exactly; steps that they start later count as runs of their own."""
        return self._abandoned

    def on_chain_start(self, serialized: Any, inputs: Any, **told: Any) -> None:
        """Note a step, or a run."""
        self._start(told, is_captured=True)

    def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        """Note how many messages a model is given."""
        self._start(told, is_captured=True, messages=sum(len(batch) for batch in messages))

    def on_llm_start(self, serialized: Any, prompts: Any, **told: Any) -> None:
        """Note that a model is given prompts."""
        self._start(told, is_captured=True, messages=len(prompts))

    def on_tool_start(self, serialized: Any, input_str: str, **told: Any) -> None:
        """Count a call of a tool."""
        self._start(told, is_captured=False, tool_calls=1)

    def on_retriever_start(self, serialized: Any, query: str, **told: Any) -> None:
        """Note a search."""
        self._start(told, is_captured=False)

    def on_llm_new_token(self, token: Any, **told: Any) -> None:
        """Note when the first token came."""
        with self._quietly, self._lock:
            run = self._run_of(told["run_id"])
            if run is not None and run.first_token_ms is None:
                run.first_token_ms = _passed_ms(run)

    def on_llm_end(self, response: Any, **told: Any) -> None:
        """Add what a model call used, and end the run if it is nothing but this call."""
        with self._quietly, self._lock:
            run = self._run_of(told["run_id"])
            if run is not None:
                _account(run, told["run_id"], response)
        self._end(told["run_id"], None, _answer_of(response))

    def on_llm_error(self, error: BaseException, **told: Any) -> None:
        """Count the call that failed."""
        with self._quietly, self._lock:
            run = self._run_of(told["run_id"])
            if run is not None:
                run.tally.add(None, run.asked.pop(told["run_id"], (0, None))[1])
        self._end(told["run_id"], error)

    def on_chain_end(self, outputs: Any, **told: Any) -> None:
        """End a step, or the run."""
        self._end(told["run_id"], None, outputs)

    def on_chain_error(self, error: BaseException, **told: Any) -> None:
        """End a step, or the run, by its error."""
        self._end(told["run_id"], error)

    def on_tool_end(self, output: Any, **told: Any) -> None:
        """End a step."""
        self._end(told["run_id"], None)

    def on_tool_error(self, error: BaseException, **told: Any) -> None:
        """End a step by its error."""
        self._end(told["run_id"], error)

    def on_retriever_end(self, documents: Any, **told: Any) -> None:
        """End a step."""
        self._end(told["run_id"], None)

    def on_retriever_error(self, error: BaseException, **told: Any) -> None:
        """End a step by its error."""
        self._end(told["run_id"], error)

    def _start(self, told: dict[str, Any], *, is_captured: bool, messages: int = 0, tool_calls: int = 0) -> None:
        with self._quietly, self._lock:
            run_id, parent = told["run_id"], told.get("parent_run_id") or _parent_around()
            run = None if parent is None else self._run_of(parent)
            if run is None:
                run = self._open[run_id] = _Run(run_id, is_captured, told.get("metadata") or {})
                self._follow(run, run_id)
                self._give_up_oldest()
            elif len(run.steps) < MAX_STEPS:
                self._follow(run, run_id)
            run.tool_calls += tool_calls
            if messages:
                run.asked[run_id] = (messages, _model_asked(told))

    def _follow(self, run: _Run, run_id: UUID) -> None:
        run.steps.add(run_id)
        self._roots[run_id] = run.root

    def _run_of(self, run_id: UUID) -> _Run | None:
        root = self._roots.get(run_id)
        return None if root is None else self._open.get(root)

    def _give_up_oldest(self) -> None:
        while len(self._open) > self._max_open_runs:
            self._forget(next(iter(self._open)))
            self._abandoned += 1

    def _forget(self, root: UUID) -> None:
        for step in self._open.pop(root).steps:
            self._roots.pop(step, None)

    def _end(self, run_id: UUID, error: BaseException | None, output: Any = None) -> None:
        with self._quietly:
            with self._lock:
                run = self._run_of(run_id)
                if run is None:
                    return
                if run.root != run_id:
                    run.steps.discard(run_id)
                    self._roots.pop(run_id, None)
                    return
                self._forget(run_id)
            if run.is_captured:
                self._runtime.capture(self._event(run, error, output))

    def _event(self, run: _Run, error: BaseException | None, output: Any) -> dict[str, Any]:
        metadata = run.metadata
        session = next((known for key in _SESSION_KEYS if (known := name(metadata.get(key)))), str(run.root))
        event: dict[str, Any] = {
            "event_id": stable_event_id("langchain.run", str(run.root)),
            "session_id": session,
            "session_type": "autonomous",
            **{key: known for key in ("user_id", "organization_id") if (known := name(metadata.get(key)))},
            **{key: value for key, value in self._identity.items() if key != "metadata"},
            "start_time": run.started_ms,
            "end_time": time.time_ns() // 1_000_000,
            "duration_ms": _passed_ms(run),
            "message_count": run.messages,
            "tool_call_count": run.tool_calls,
            "outcome": outcome_of(error),
            "metadata": {**labels(self._identity.get("metadata")), "run_id": str(run.root)},
            **run.tally.event_fields(),
        }
        if run.first_token_ms is not None:
            event["first_token_ms"] = run.first_token_ms
        final = _text_of(output) if self._content else None
        if final:
            event["final_output"] = final
        return event


def _parent_around() -> UUID | None:
    # Fallbacks do not tell their steps whose steps they are, but run them in a context that knows.
    around: Any = (var_child_runnable_config.get() or {}).get("callbacks")
    return getattr(around, "parent_run_id", None)


def _account(run: _Run, run_id: UUID, response: Any) -> None:
    asked, model = run.asked.pop(run_id, (0, None))
    usages = list(_usages(response))
    for usage, answered_by in usages or [(None, None)]:
        run.tally.add(usage, answered_by or model)
    # A model is given the conversation so far: the longest call, with its answer, is the conversation.
    run.messages = max(run.messages, asked + len(response.generations))


def _usages(response: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what each answer used, with its model; several candidates of one prompt share one report."""
    output = response.llm_output or {}
    model = next((output[key] for key in _MODEL_KEYS if output.get(key)), None)
    found = False
    for candidates in response.generations:
        message = getattr(candidates[0], "message", None) if candidates else None
        details = getattr(message, "response_metadata", None) or {}
        usage = getattr(message, "usage_metadata", None) or _first(details, _USAGE_KEYS)
        if usage:
            found = True
            yield usage, _first(details, _MODEL_KEYS[::-1]) or model
    if not found and (_first(output, _USAGE_KEYS) or model):
        yield _first(output, _USAGE_KEYS), model


def _first(holder: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((holder[key] for key in keys if holder.get(key)), None)


def _model_asked(told: Mapping[str, Any]) -> str | None:
    known = (told.get("metadata") or {}).get("ls_model_name")
    return name(known or _first(told.get("invocation_params") or {}, _MODEL_KEYS))


def _answer_of(response: Any) -> Any:
    generations = getattr(response, "generations", None)
    return generations[0][0] if generations and generations[0] else None


def _text_of(output: Any) -> str | None:
    """Return the text of an answer: of a message, a generation, or the field that chains and agents put it in."""
    if isinstance(output, Mapping):
        messages = output.get("messages")
        return _text_of(messages[-1] if messages else _first(output, _OUTPUT_KEYS))
    if isinstance(output, str):
        return excerpt(output)
    text = getattr(output, "text", None)
    return excerpt(str(text)) if isinstance(text, str) else excerpt(output)


def _passed_ms(run: _Run) -> int:
    return round((time.monotonic() - run.began_s) * 1_000)
