"""A chat completion as it is made: the events of its runs as chunks, and the end that clients wait for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.api.errors import ErrorBody, ErrorEnvelope
from app.api.json_replies import encode
from app.api.openai.chat_answers import ChatAnswer, StopCutter
from app.api.openai.chat_replies import completion_id, usage_object
from app.api.openai.response_ids import ResponseId
from app.domain.models.events import EventBatch
from app.domain.models.usage import TokenUsage

DONE: Final = b"data: [DONE]\n\n"

_VOID: Final = ErrorBody(
    "The process that made this answer was lost in the middle of it, and what was sent is not what the run said in "
    "the end. Ask again.",
    "server_error",
    None,
    "stream_interrupted",
)


@dataclass(frozen=True, slots=True)
class ChoiceBatch(EventBatch):
    """Events of the run that makes one of the choices."""

    choice: int = 0


class ChatChunks:
    """Turns the batches of a completion's runs into chunks.

    Chunks cannot take back what they have said. Where a run begins a model call again that had been heard in part, the
    stream ends with an error; where nothing of it was sent, the client never learns of it.
    """

    def __init__(
        self, run_id: str, model: str, answers: Sequence[ChatAnswer], stops: Sequence[str], *, include_usage: bool
    ) -> None:
        """`run_id` is the run that makes the first choice; `answers` are all choices, empty yet."""
        self._head: Final[Mapping[str, Any]] = {
            "id": completion_id(run_id),
            "object": "chat.completion.chunk",
            "created": ResponseId(run_id).created_at,
            "model": model,
        }
        self._choices = [_Choice(index, answer, stops) for index, answer in enumerate(answers)]
        self._include_usage = include_usage
        self.is_over = False
        """Whether nothing comes any more, well or badly."""

    def of(self, batch: EventBatch) -> bytes:
        """Return the chunks of a batch of one of the runs."""
        if self.is_over:
            return b""
        assert isinstance(batch, ChoiceBatch)
        choice = self._choices[batch.choice]
        told: list[bytes] = [self._chunk(choice.begun())] if not choice.has_begun else []
        for item in batch.events:
            choice.answer.feed(item.event)
            if choice.is_void:
                told.append(self.error(_VOID))
                return b"".join(told)
        told += [self._chunk(said) for said in choice.said()]
        end = choice.answer.end
        if end is None:
            return b"".join(told)
        if end.error is not None:
            told.append(self.error(end.error))
        elif all(other.answer.end is not None for other in self._choices):
            told.append(self._last())
        return b"".join(told)

    def error(self, body: ErrorBody) -> bytes:
        """Return an error, which ends the stream: there is no `[DONE]` after it."""
        self.is_over = True
        return b"data: %b\n\n" % encode(ErrorEnvelope(body))

    def _last(self) -> bytes:
        self.is_over = True
        if not self._include_usage:
            return DONE
        ends = (choice.answer.end for choice in self._choices)
        usage = sum((end.usage for end in ends if end is not None), TokenUsage())
        return self._frame({"choices": [], "usage": usage_object(usage)}) + DONE

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._frame({"choices": [choice], "usage": None} if self._include_usage else {"choices": [choice]})

    def _frame(self, values: Mapping[str, Any]) -> bytes:
        return b"data: %b\n\n" % encode({**self._head, "system_fingerprint": None, **values})


class _Choice:
    """One choice, and how much of it was sent."""

    def __init__(self, index: int, answer: ChatAnswer, stops: Sequence[str]) -> None:
        self.index = index
        self.answer = answer
        self.has_begun = False
        self._cutter = StopCutter(stops)
        self._held = ""
        self._texts = 0
        self._refusals = 0
        self._calls = 0

    @property
    def is_void(self) -> bool:
        """Whether something that was sent is not part of the answer any more."""
        answer = self.answer
        return (
            len(answer.texts) < self._texts or len(answer.refusals) < self._refusals or len(answer.calls) < self._calls
        )

    def begun(self) -> dict[str, Any]:
        """Return the first chunk: who speaks."""
        self.has_begun = True
        return self._delta({"role": "assistant", "content": "", "refusal": None})

    def said(self) -> list[dict[str, Any]]:
        """Return what has come since the last time, and at the end why nothing more comes."""
        answer, ended = self.answer, self.answer.end is not None and self.answer.end.error is None
        told: list[dict[str, Any]] = []
        if answer.is_firm:
            fresh = answer.texts[self._texts :]
            self._texts = len(answer.texts)
            if fresh or (ended and self._held):
                pending = self._held + "".join(fresh)
                text = self._cutter.passed(pending, last=ended)
                self._held = "" if self._cutter.is_cut else pending[len(text) :]
                if text:
                    told.append(self._delta({"content": text}))
            refused = "".join(answer.refusals[self._refusals :])
            self._refusals = len(answer.refusals)
            if refused:
                told.append(self._delta({"refusal": refused}))
            for call in answer.calls[self._calls :]:
                told += self._call(call)
        if ended and answer.end is not None:
            told.append({**self._delta({}), "finish_reason": answer.end.finish_reason})
        return told

    def _call(self, call: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a call: its name first, then its arguments, which are known only as a whole."""
        index, function = self._calls, call["function"]
        self._calls += 1
        begun = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
        return [
            self._delta({"tool_calls": [begun]}),
            self._delta({"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]}),
        ]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}
