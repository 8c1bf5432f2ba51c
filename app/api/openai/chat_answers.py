"""What a run says to a chat client: one text, the calls that the client executes, and how it ended.

The agent's own tools are executed here and cannot be seen. All messages of a run are one text, an empty line between
them. Where the answer has a form (a schema), only the last message is the answer: those before its tools were called
would break it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from app.api.errors import ErrorBody, HttpError, body_of_end
from app.api.json_replies import encode
from app.api.openai.response_items import is_own_call, shown_part
from app.domain.models.events import (
    HandoffOccurred,
    ItemDone,
    ModelCallStarted,
    RefusalDelta,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunStarted,
    RunWaiting,
    TextDelta,
    UsageReported,
)
from app.domain.models.runs import ErrorInfo
from app.domain.models.usage import TokenUsage

BETWEEN: Final = "\n\n"
"""Stands between two messages of one answer."""

FinishReason = Literal["stop", "tool_calls", "length", "content_filter"]

_INCOMPLETE: Final[Mapping[str, FinishReason]] = {"max_output_tokens": "length", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class ChatEnd:
    """How a run ended."""

    usage: TokenUsage
    finish_reason: FinishReason | None = None
    """None: it ended badly."""
    error: ErrorBody | None = None


@dataclass(slots=True)
class _Step:
    """The model call that speaks now."""

    key: str = ""
    is_whole: bool = False
    """Whether its answer is recorded; one that never is was cut, and the run has asked again."""
    message_at: int = 0
    """Where in the whole text its message begins."""
    item_id: str | None = None
    told_chars: int = 0
    """Of its messages, by deltas."""
    done_chars: int = 0
    """Of its messages that are whole."""
    refused: bool = False


class ChatAnswer:
    """One choice of a chat completion, put together from the events of its run."""

    def __init__(self, tools: frozenset[str], *, structured: bool) -> None:
        """`tools`: names of those that the client executes. `structured`: only the last message is the answer."""
        self.texts: list[str] = []
        """The answer, in pieces."""
        self.refusals: list[str] = []
        self.calls: list[dict[str, Any]] = []
        """As messages have them."""
        self.annotations: list[dict[str, Any]] = []
        self.end: ChatEnd | None = None
        """None while the run goes on."""
        self.is_firm = True
        """Whether what was said until here is part of the answer, whatever comes."""
        self._tools = tools
        self._structured = structured
        self._marks: dict[str, tuple[int, int, int]] = {}
        """How many texts, refusals and calls there were when a step began."""
        self._step = _Step()
        self._chars = 0
        self._said_since_call = False

    def feed(self, event: RunEvent) -> None:
        """Take an event of the run. What an earlier attempt has said and was not recorded goes away again."""
        match event:
            case RunCompleted():
                self._completed(event)
            case RunFailed():
                self._failed(event)
            case RunCancelled():
                info = ErrorInfo("run_cancelled", event.message, {"reason": event.reason})
                self.end = ChatEnd(event.tokens, error=body_of_end(info))
            case RunWaiting():
                self.end = ChatEnd(TokenUsage(), error=waits_for_approval(event.run_id, event.approvals).body)
            case RunStarted():
                self.end = None  # it has waited, or its process was lost, and goes on
                self._drop_cut_call()
            case _ if not event.scope:
                self._heard(event)
            case _:
                return  # a nested agent speaks to the agent that called it

    def _heard(self, event: RunEvent) -> None:
        match event:
            case TextDelta():
                self._delta(event)
            case RefusalDelta():
                self._step.refused = True
                self.refusals.append(event.delta)
            case ModelCallStarted():
                self._call_started(event.step)
            case ItemDone():
                self._step.is_whole = True
                self._item(event.item)
            case HandoffOccurred():
                self._own_call()
            case UsageReported():
                self.is_firm = True
            case _:
                return

    def _call_started(self, step: str) -> None:
        self._drop_cut_call()
        self._marks.setdefault(step, (len(self.texts), len(self.refusals), len(self.calls)))
        self._drop_from(step)
        self._step = _Step(step, message_at=self._chars)
        self.is_firm = not self._structured

    def _drop_cut_call(self) -> None:
        """Forget what a call has said that was cut: its process was lost or has handed it back, or it failed."""
        if self._step.key and not self._step.is_whole:
            self._drop_from(self._step.key)

    def _drop_from(self, step: str) -> None:
        texts, refusals, calls = self._marks[step]
        del self.texts[texts:], self.refusals[refusals:], self.calls[calls:]
        self._chars = sum(map(len, self.texts))

    def _delta(self, event: TextDelta) -> None:
        step = self._step
        if event.item_id != step.item_id or not step.told_chars:
            step.item_id = event.item_id
            self._begin_message()
        step.told_chars += len(event.delta)
        self._say(event.delta)

    def _say(self, text: str) -> None:
        self.texts.append(text)
        self._chars += len(text)
        self._said_since_call = True

    def _begin_message(self) -> None:
        if self._chars:
            self.texts.append(BETWEEN)
            self._chars += len(BETWEEN)
        self._step.message_at = self._chars

    def _item(self, item: Mapping[str, Any]) -> None:
        kind = item.get("type")
        if kind in {"message", None}:
            self._message([shown_part(part) for part in item.get("content") or () if isinstance(part, Mapping)])
        elif is_own_call(item, self._tools):
            self._own_call()
        elif kind == "function_call":
            function = {"name": str(item["name"]), "arguments": str(item["arguments"])}
            self.calls.append({"id": str(item["call_id"]), "type": "function", "function": function})

    def _message(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Take a whole message; what no delta has told of it is told now."""
        step = self._step
        text = "".join(part["text"] for part in parts if part["type"] == "output_text")
        refusal = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
        if text:
            if step.told_chars <= step.done_chars:  # it had no deltas
                self._begin_message()
            untold = text[max(0, step.told_chars - step.done_chars) :]
            step.done_chars += len(text)
            step.told_chars = max(step.told_chars, step.done_chars)
            if untold:
                self._say(untold)
            self._annotate(parts)
        if refusal and not step.refused:
            self.refusals.append(refusal)

    def _annotate(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Take the sources of a message; their places are counted from the beginning of the whole text."""
        at = self._step.message_at
        for part in parts:
            for annotation in part.get("annotations", ()):
                if isinstance(annotation, Mapping) and annotation.get("type") == "url_citation":
                    self.annotations.append(_citation(annotation, at))
            at += len(part.get("text", ""))

    def _own_call(self) -> None:
        self._said_since_call = False
        if self._structured:
            self.texts, self.annotations, self._chars = [], [], 0
            self._marks = {step: (0, refusals, calls) for step, (_, refusals, calls) in self._marks.items()}

    def _completed(self, event: RunCompleted) -> None:
        if not (self.calls or self._said_since_call or self.refusals) and event.output not in (None, ""):
            # A tool's output is the answer.
            self._begin_message()
            self._say(event.output if isinstance(event.output, str) else encode(event.output).decode())
        self.is_firm = True
        self.end = ChatEnd(event.tokens, "tool_calls" if self.calls else "stop")

    def _failed(self, event: RunFailed) -> None:
        reason = _INCOMPLETE.get(str(event.details.get("incomplete_reason")))
        if reason is not None:
            self.is_firm = True
            self.end = ChatEnd(event.tokens, reason)
            return
        info = ErrorInfo(event.code, event.message, event.details)
        self.end = ChatEnd(event.tokens, error=body_of_end(info))


class StopCutter:
    """Ends a text before the first of some texts, which may come in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Without stops everything passes."""
        self._stops = stops
        self.is_cut = False

    def passed(self, pending: str, *, last: bool) -> str:
        """Return how much of what was not sent yet may be sent now; what is not, comes again with more behind it.

        `last`: nothing comes after it.
        """
        if self.is_cut or not self._stops:
            return "" if self.is_cut else pending
        found = [at for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:
            self.is_cut = True
            return pending[: min(found)]
        if last:
            return pending
        return pending[: len(pending) - max(_begun(pending, stop) for stop in self._stops)]


def waits_for_approval(run_id: str, approvals: int) -> HttpError:
    """Return the error for a run that cannot go on before a person has decided."""
    message = (
        f"The run {run_id} waits for {approvals} approval{'s' if approvals != 1 else ''} of a person. Decide at "
        f"POST /api/runs/{run_id}/approvals, and read the answer at GET /api/runs/{run_id}."
    )
    return HttpError(409, "approval_required", message)


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop."""
    most = min(len(text), len(stop) - 1)
    return next((count for count in range(most, 0, -1) if stop.startswith(text[-count:])), 0)


def _citation(annotation: Mapping[str, Any], at: int) -> dict[str, Any]:
    return {
        "type": "url_citation",
        "url_citation": {
            "start_index": at + int(annotation.get("start_index", 0)),
            "end_index": at + int(annotation.get("end_index", 0)),
            "title": str(annotation.get("title", "")),
            "url": str(annotation.get("url", "")),
        },
    }
