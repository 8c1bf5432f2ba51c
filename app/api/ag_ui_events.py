"""A run as events of the Agent User Interaction protocol (AG-UI 1.0).

Agents that are used as tools are subagents, for clients that speak 1.0; for older ones they are tools, and only their
calls are told. A message that was lost with its attempt ends with `metadata` `{"durable-agents": {"void": true}}`: it
comes again as a message of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

from app.api.errors import ErrorBody
from app.api.json_replies import encode
from app.api.narrator import Narrator
from app.api.told_parts import (
    AgentChanged,
    ApprovalAsked,
    CallAnswered,
    CallDenied,
    CallMade,
    Ended,
    Narration,
    NestedAnswer,
    NestedBegan,
    NestedEnded,
    PartBegan,
    PartEnded,
    PartGrew,
    Paused,
    SourceCited,
    StepBegan,
    StepEnded,
)
from app.domain.models.events import EventBatch, RunCancelled, RunCompleted, RunFailed

PROTOCOL_VERSION: Final = "1.0"
_VOID: Final = {"durable-agents": {"void": True}}
_WANTED: Final = frozenset({"user", "interrupted"})
_ANSWER_SCHEMA: Final = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "message": {"type": "string"}},
    "required": ["approved"],
}
"""Of what resolves a request for approval."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AgUiHead:
    """Which run a stream tells, in the client's names."""

    thread_id: str
    run_id: str
    state: Any
    """What the client gave, and gets back as it is; None: nothing."""
    subagents: bool
    """Whether the client knows subagents."""


class AgUiFrames:
    """Frames of one reader: `data: <event>`."""

    def __init__(self, head: AgUiHead, narrator: Narrator) -> None:
        """`narrator` tells the run."""
        self._head = head
        self._narrator = narrator
        self._begun = False
        self._interrupts: list[Event] = []

    def of(self, batch: EventBatch) -> bytes:
        """Return what a batch tells; empty when that is nothing."""
        lines = [] if self._begun else [_line(event) for event in self._start()]
        self._begun = True
        for narration in self._narrator.tell(batch):
            lines += [_line(event) for event in self._events(narration)]
        return b"".join(lines)

    def error(self, body: ErrorBody) -> bytes:
        """Return the end of a stream that fails on its way."""
        begin = b"" if self._begun else b"".join(_line(event) for event in self._start())
        return begin + _line({"type": "RUN_ERROR", "message": body.message, "code": body.code})

    def _start(self) -> list[Event]:
        begin: Event = {"type": "RUN_STARTED", **self._names(), "protocolVersion": PROTOCOL_VERSION}
        state = self._head.state
        return [begin] if state is None else [begin, {"type": "STATE_SNAPSHOT", "snapshot": state}]

    def _names(self) -> dict[str, str]:
        return {"threadId": self._head.thread_id, "runId": self._head.run_id}

    def _events(self, told: Narration) -> Iterator[Event]:
        match told:
            case PartBegan() | PartGrew() | PartEnded():
                yield from self._part(told)
            case CallMade():
                yield from self._call(told)
            case CallAnswered() | CallDenied():
                yield self._result(told)
            case NestedBegan() | NestedEnded():
                yield from self._subagent(told)
            case StepBegan() | StepEnded() | AgentChanged() | SourceCited():
                yield _mark(told)
            case NestedAnswer():
                pass  # told as it grew
            case ApprovalAsked():
                self._interrupts.append(self._interrupt(told))
            case Paused():
                outcome = {"type": "interrupt", "interrupts": self._interrupts}
                yield {"type": "RUN_FINISHED", **self._names(), "outcome": outcome, "usage": self._usage()}
            case Ended():
                yield self._end(told)
            case _:
                assert_never(told)

    def _part(self, told: PartBegan | PartGrew | PartEnded) -> list[Event]:
        if told.scope and not self._head.subagents:
            return []
        named = {"messageId": told.id, **self._of(told.scope)}
        text = told.kind == "text"
        match told:
            case PartBegan():
                if text:
                    return [{"type": "TEXT_MESSAGE_START", **named, "role": "assistant"}]
                return [
                    {"type": "REASONING_START", **named},
                    {"type": "REASONING_MESSAGE_START", **named, "role": "reasoning"},
                ]
            case PartGrew():
                kind = "TEXT_MESSAGE_CONTENT" if text else "REASONING_MESSAGE_CONTENT"
                return [{"type": kind, **named, "delta": told.delta}]
            case PartEnded():
                void = {"metadata": _VOID} if told.void else {}
                if text:
                    return [{"type": "TEXT_MESSAGE_END", **named, **void}]
                return [
                    {"type": "REASONING_MESSAGE_END", **named, **void},
                    {"type": "REASONING_END", **named, **void},
                ]

    def _call(self, told: CallMade) -> list[Event]:
        named = {"toolCallId": told.id, **self._of(told.scope)}
        arguments = [{"type": "TOOL_CALL_ARGS", **named, "delta": told.arguments}] if told.arguments else []
        return [
            {"type": "TOOL_CALL_START", **named, "toolCallName": told.name},
            *arguments,
            {"type": "TOOL_CALL_END", **named},
        ]

    def _result(self, told: CallAnswered | CallDenied) -> Event:
        output: Any = told.output
        return {
            "type": "TOOL_CALL_RESULT",
            "messageId": f"{told.id}-result",
            "toolCallId": told.id,
            "content": output if isinstance(output, str) else encode(output).decode(),
            "role": "tool",
            **self._of(told.scope),
        }

    def _interrupt(self, told: ApprovalAsked) -> Event:
        return {
            "id": told.approval_id,
            "reason": "tool_approval",
            "message": f"Allow the call of {told.name}?",
            "toolCallId": told.call,
            "responseSchema": _ANSWER_SCHEMA,
            **self._of(told.scope),
        }

    def _subagent(self, told: NestedBegan | NestedEnded) -> Iterator[Event]:
        if not self._head.subagents:
            return
        named = {"subagentRunId": self._subagent_id(told.scope)}
        match told:
            case NestedBegan():
                call = {} if told.call is None else {"parentToolCallId": told.call}
                path, _, _ = told.scope.rpartition("/t:")
                parent = {"parentSubagentRunId": self._subagent_id(path)} if path else {}
                yield {"type": "SUBAGENT_STARTED", **named, "name": told.agent, **call, **parent}
            case NestedEnded():
                yield {"type": "SUBAGENT_FINISHED", **named}

    def _of(self, scope: str) -> dict[str, str]:
        return {"subagentRunId": self._subagent_id(scope)} if scope and self._head.subagents else {}

    def _subagent_id(self, scope: str) -> str:
        return f"{self._head.run_id}{scope}"

    def _end(self, told: Ended) -> Event:
        event = told.event
        match event:
            case RunCompleted():
                pending = {"pendingToolCallIds": list(told.client_calls)} if told.client_calls else {}
                return {
                    "type": "RUN_FINISHED",
                    **self._names(),
                    "result": event.output,
                    "outcome": {"type": "success", **pending},
                    "usage": self._usage(),
                }
            case RunCancelled() if event.reason in _WANTED:
                outcome = {"type": "cancelled"}
                return {"type": "RUN_FINISHED", **self._names(), "outcome": outcome, "usage": self._usage()}
            case RunCancelled():
                return {"type": "RUN_ERROR", "message": event.message, "code": event.reason, "usage": self._usage()}
            case RunFailed():
                return {"type": "RUN_ERROR", "message": event.message, "code": event.code, "usage": self._usage()}

    def _usage(self) -> Sequence[Event]:
        return [
            {
                "model": model,
                "inputTokens": tokens.input_tokens,
                "outputTokens": tokens.output_tokens,
                "totalTokens": tokens.total_tokens,
                "reasoningTokens": tokens.reasoning_tokens,
                "cachedInputTokens": tokens.cached_tokens,
                "cacheWriteInputTokens": tokens.cache_write_tokens,
            }
            for model, tokens in self._narrator.usage.items()
        ]


def _mark(told: StepBegan | StepEnded | AgentChanged | SourceCited) -> Event:
    match told:
        case StepBegan():
            return {"type": "STEP_STARTED", "stepName": told.step}
        case StepEnded():
            return {"type": "STEP_FINISHED", "stepName": told.step}
        case AgentChanged():
            return {"type": "CUSTOM", "name": "agent_changed", "value": {"agent": told.agent}}
        case SourceCited():
            return {"type": "CUSTOM", "name": "source_cited", "value": {"url": told.url, "title": told.title}}


def _line(event: Event) -> bytes:
    return b"data: %b\n\n" % encode(event)
