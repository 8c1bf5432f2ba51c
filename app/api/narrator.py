"""A run's events told again for protocols that build messages: parts that begin, grow and end, calls and their ends.

What other protocols are told cannot be taken back. So the end of a part, and what a tool has answered, is told once
it is on disk: a part that is still open when an attempt of the run is lost is void, and one that has ended never is.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.api.json_replies import encode
from app.api.told_parts import (
    AgentChanged,
    ApprovalAsked,
    CallAnswered,
    CallDenied,
    CallMade,
    CallMaker,
    Ended,
    Narration,
    NestedAnswer,
    NestedBegan,
    NestedEnded,
    PartBegan,
    PartEnded,
    PartGrew,
    PartKind,
    Paused,
    SourceCited,
    StepBegan,
    StepEnded,
)
from app.domain.models.events import (
    STOP_TYPES,
    AgentUpdated,
    ApprovalRequested,
    EventBatch,
    HandoffOccurred,
    ItemDone,
    ModelCallStarted,
    ReasoningDelta,
    RefusalDelta,
    RunCompleted,
    RunEvent,
    RunStarted,
    RunWaiting,
    SequencedEvent,
    TerminalEvent,
    TextDelta,
    ToolArgumentsDelta,
    ToolOutput,
    ToolStarted,
    UsageReported,
)
from app.domain.models.usage import TokenUsage

_LASTING: Final = frozenset({ItemDone, UsageReported, ToolOutput})
"""What is told once it is on disk, with all that comes behind it."""

_HOSTED: Final = frozenset(
    {"web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call"}
)


@dataclass(slots=True)
class _OpenPart:
    kind: PartKind
    id: str


class Narrator:
    """Tells one reader of one run; batches go in, in order, from the beginning or from where a run goes on."""

    def __init__(
        self,
        run_id: str,
        *,
        client_tools: frozenset[str] = frozenset(),
        told_calls: frozenset[str] = frozenset(),
        denied_calls: frozenset[str] = frozenset(),
    ) -> None:
        """`told_calls` are those that the reader knows from before the run waited; some of them were denied."""
        self._run_id = run_id
        self._client_tools = client_tools
        self._denied = denied_calls
        self._calls = set(told_calls)
        self._client_calls: list[str] = []
        self._held: deque[SequencedEvent] = deque()
        self._open: dict[str, dict[str, _OpenPart]] = {}
        self._used: dict[str, int] = {}
        self._nested: dict[str, str] = {}
        self._step: str | None = None
        self._said = False
        self.usage: dict[str, TokenUsage] = {}
        """What was told of each model's use so far."""

    def tell(self, batch: EventBatch) -> Iterator[Narration]:
        """Yield what a batch tells."""
        for item in batch.events:
            while self._held and self._held[-1].sequence >= item.sequence:
                self._held.pop()  # told early and lost: the number was given anew
            self._held.append(item)
        ended = bool(self._held) and type(self._held[-1].event) in STOP_TYPES
        while self._held:
            item = self._held[0]
            if type(item.event) in _LASTING and item.sequence > batch.recorded and not ended:
                return
            self._held.popleft()
            if isinstance(item.event, RunWaiting):
                if not self._held:
                    yield from self._close(void=False)
                    yield Paused()
            else:
                yield from self._told(item.sequence, item.event)

    def _told(self, sequence: int, event: RunEvent) -> Iterator[Narration]:
        match event:
            case RunStarted():
                yield from self._end_parts(None, void=True)
            case ModelCallStarted():
                yield from self._model_call(event)
            case TextDelta() | RefusalDelta():
                yield from self._grown("text", event.item_id, event.delta, event.scope)
            case ReasoningDelta():
                yield from self._grown("reasoning", event.item_id, event.delta, event.scope)
            case ToolArgumentsDelta() | HandoffOccurred() | RunWaiting():
                pass  # whose arguments they are is known when the call is whole; a handoff is told by the next
            case ItemDone():
                yield from self._item(event)
            case UsageReported():
                self.usage[event.model] = self.usage.get(event.model, TokenUsage()) + event.tokens
                yield from self._end_parts(event.scope, void=False)
            case ToolStarted() | ApprovalRequested():
                yield from self._called(sequence, event)
            case ToolOutput():
                yield from self._answered(event)
            case AgentUpdated():
                if not event.scope:
                    yield AgentChanged(event.agent)
            case _:
                yield from self._ended(event)

    def _model_call(self, event: ModelCallStarted) -> Iterator[Narration]:
        # What is open now was never metered: its attempt was lost, or the call is made again.
        yield from self._end_parts(event.scope, void=True)
        if not event.scope:
            yield from self._end_step()
            self._step = event.step
            yield StepBegan(event.step)
        elif event.scope not in self._nested:
            self._nested[event.scope] = event.agent
            path, _, call_id = event.scope.rpartition("/t:")
            key = call_key(path, call_id)
            yield NestedBegan(event.scope, event.agent, key if key in self._calls else None)

    def _grown(self, kind: PartKind, item_id: str, delta: str, scope: str) -> Iterator[Narration]:
        part = self._open.setdefault(scope, {}).get(item_id)
        if part is None and kind == "reasoning" and not delta:
            return  # reasoning that is only announced may never be told
        if part is None:
            part = _OpenPart(kind, self._unique(item_id))
            self._open[scope][item_id] = part
            yield PartBegan(kind, part.id, scope)
        if delta:
            self._said = self._said or (kind == "text" and not scope)
            yield PartGrew(kind, part.id, delta, scope)

    def _ended(self, event: TerminalEvent) -> Iterator[Narration]:
        yield from self._end_parts(None, void=False)
        if isinstance(event, RunCompleted):
            yield from self._unsaid(event.output)
        yield from self._close(void=False)
        yield Ended(event, tuple(self._client_calls))

    def _unsaid(self, output: Any) -> Iterator[Narration]:
        """Tell an answer that no model has said: a tool's output can be one."""
        text = output if isinstance(output, str) else "" if output is None else encode(output).decode()
        if text and not self._said:
            yield from self._grown("text", "answer", text, "")
            yield from self._end_parts("", void=False)

    def _unique(self, item_id: str) -> str:
        name = item_id or "part"
        times = self._used[name] = self._used.get(name, 0) + 1
        return name if times == 1 else f"{name}-{times}"

    def _item(self, event: ItemDone) -> Iterator[Narration]:
        item, scope = event.item, event.scope
        match item.get("type", "message"):
            case "message":
                text = _message_text(item)
                yield from self._whole("text", item, text, scope)
                for annotation in _annotations(item):
                    yield SourceCited(str(annotation["url"]), annotation.get("title"))
                if scope and text:
                    path, _, call_id = scope.rpartition("/t:")
                    yield NestedAnswer(call_key(path, call_id), text)
            case "reasoning":
                yield from self._whole("reasoning", item, _reasoning_text(item), scope)
            case "function_call" if not scope and item.get("name") in self._client_tools:
                call_id = str(item.get("call_id"))
                if call_id not in self._calls:
                    self._client_calls.append(call_id)
                yield from self._made(call_id, str(item["name"]), str(item.get("arguments", "")), "client", scope)
            case kind if kind in _HOSTED:
                yield from self._hosted(str(kind), item, scope)
            case _:
                pass  # a tool of ours is told when it starts

    def _whole(self, kind: PartKind, item: Mapping[str, Any], text: str, scope: str) -> Iterator[Narration]:
        """End the part of an item; tell it as a whole when none of its deltas was told."""
        parts = self._open.get(scope, {})
        item_id = str(item.get("id") or "")
        known = item_id if item_id in parts else next((key for key, part in parts.items() if part.kind == kind), None)
        if known is None:
            if not text:
                return
            yield from self._grown(kind, item_id, text, scope)
            known = item_id
        yield PartEnded(kind, self._open[scope].pop(known).id, scope)

    def _hosted(self, kind: str, item: Mapping[str, Any], scope: str) -> Iterator[Narration]:
        name = str(item.get("name") or kind.removesuffix("_call"))
        call_id = str(item.get("id") or self._unique(kind))
        yield from self._made(call_id, name, str(item.get("arguments") or ""), "provider", scope)
        yield CallAnswered(call_key(scope, call_id), dict(item), scope)

    def _called(self, sequence: int, event: ToolStarted | ApprovalRequested) -> Iterator[Narration]:
        yield from self._made(event.call_id, event.name, event.arguments, "server", event.scope)
        if isinstance(event, ApprovalRequested):
            name = approval_id(self._run_id, sequence, event.scope, event.call_id)
            yield ApprovalAsked(name, call_key(event.scope, event.call_id), event.name, event.scope)

    def _made(self, call_id: str, name: str, arguments: str, by: CallMaker, scope: str) -> Iterator[Narration]:
        key = call_key(scope, call_id)
        if key not in self._calls:
            self._calls.add(key)
            yield CallMade(key, name, arguments, by, scope)

    def _answered(self, event: ToolOutput) -> Iterator[Narration]:
        yield from self._made(event.call_id, event.name, "", "server", event.scope)
        nested = f"{event.scope}/t:{event.call_id}"
        yield from self._end_parts(nested, void=False)
        if self._nested.pop(nested, None) is not None:
            yield NestedEnded(nested)
        key = call_key(event.scope, event.call_id)
        if key in self._denied:
            yield CallDenied(key, event.output, event.scope)
        else:
            yield CallAnswered(key, event.output, event.scope)

    def _end_parts(self, scope: str | None, *, void: bool) -> Iterator[Narration]:
        for name in list(self._open) if scope is None else [scope]:
            for part in self._open.pop(name, {}).values():
                yield PartEnded(part.kind, part.id, name, void)

    def _end_step(self) -> Iterator[Narration]:
        if self._step is not None:
            yield StepEnded(self._step)
            self._step = None

    def _close(self, *, void: bool) -> Iterator[Narration]:
        yield from self._end_parts(None, void=void)
        for scope in sorted(self._nested, reverse=True):
            yield NestedEnded(scope)
        self._nested.clear()
        yield from self._end_step()


def call_key(scope: str, call_id: str) -> str:
    """Return a call's id as readers know it: that of a nested agent's call is its path, which no other call has."""
    return f"{scope}/t:{call_id}" if scope else call_id


def approval_id(run_id: str, sequence: int, scope: str, call_id: str) -> str:
    """Return how a reader names a request for approval: by its run, its event, and the step of its call."""
    return f"{run_id}.{sequence}.{scope}/t:{call_id}"


def _message_text(item: Mapping[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)


def _reasoning_text(item: Mapping[str, Any]) -> str:
    parts = [*(item.get("summary") or ()), *(item.get("content") or ())]
    return "".join(str(part.get("text") or "") for part in parts)


def _annotations(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        for annotation in part.get("annotations") or ():
            if annotation.get("type") == "url_citation" and annotation.get("url"):
                yield annotation
