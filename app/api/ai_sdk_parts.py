"""A run as the AI SDK's UI message stream (v1): one assistant message, built part by part.

Agents that are used as tools show as calls of these tools: what they say is the preliminary output of the call, and
their own calls are calls of the same message. A text that was lost with its attempt ends with `providerMetadata`
`{"durableAgents": {"void": true}}`: it comes again in a part of its own.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from app.api.errors import ErrorBody
from app.api.json_replies import encode
from app.api.narrator import Narrator
from app.api.run_replies import usage_reply
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

STREAM_HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}

DONE: Final = b"data: [DONE]\n\n"
_VOID: Final = {"durableAgents": {"void": True}}
_WANTED: Final = frozenset({"user", "interrupted"})
"""Why a run was cancelled when somebody wanted it so; any other reason is an error."""

Part = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MessageHead:
    """Which message a stream builds."""

    run_id: str
    conversation_id: str
    agent: str

    @property
    def message_id(self) -> str:
        """The message's id: the same on every reading of the run, so that a resumed one replaces it."""
        return f"msg_{self.run_id.removeprefix('run_')}"


class MessageFrames:
    """Frames of one reader: `data: <part>`, and `data: [DONE]` at the end."""

    def __init__(self, head: MessageHead, narrator: Narrator) -> None:
        """`narrator` tells the run."""
        self._head = head
        self._narrator = narrator
        self._begun = False
        self._sources = 0

    def of(self, batch: EventBatch) -> bytes:
        """Return what a batch tells; empty when that is nothing."""
        lines = [] if self._begun else [_line(self._start())]
        self._begun = True
        for narration in self._narrator.tell(batch):
            lines += [_line(part) for part in self._parts(narration)]
            if isinstance(narration, Paused | Ended):
                lines.append(DONE)
        return b"".join(lines)

    def error(self, body: ErrorBody) -> bytes:
        """Return the end of a stream that fails on its way."""
        return _line({"type": "error", "errorText": body.message}) + DONE

    def _start(self) -> Part:
        metadata = {
            "runId": self._head.run_id,
            "conversationId": self._head.conversation_id,
            "agent": self._head.agent,
        }
        return {"type": "start", "messageId": self._head.message_id, "messageMetadata": metadata}

    def _parts(self, told: Narration) -> Iterator[Part]:
        match told:
            case PartBegan() | PartGrew() | PartEnded():
                yield from self._text(told)
            case CallMade() | CallAnswered() | CallDenied() | ApprovalAsked() | NestedAnswer():
                yield from _tool(told)
            case StepBegan():
                yield {"type": "start-step"}
            case StepEnded():
                yield {"type": "finish-step"}
            case SourceCited():
                self._sources += 1
                title = {} if told.title is None else {"title": told.title}
                yield {"type": "source-url", "sourceId": f"source-{self._sources}", "url": told.url, **title}
            case AgentChanged():
                yield {"type": "message-metadata", "messageMetadata": {"agent": told.agent}}
            case NestedBegan() | NestedEnded():
                pass  # its calls say whose they are
            case Paused():
                yield {"type": "finish", "finishReason": "tool-calls"}
            case Ended():
                yield from self._end(told)
            case _:
                assert_never(told)

    def _text(self, told: PartBegan | PartGrew | PartEnded) -> list[Part]:
        if told.scope:
            return []  # told when it is whole
        match told:
            case PartBegan():
                return [{"type": f"{told.kind}-start", "id": told.id}]
            case PartGrew():
                return [{"type": f"{told.kind}-delta", "id": told.id, "delta": told.delta}]
            case PartEnded():
                void = {"providerMetadata": _VOID} if told.void else {}
                return [{"type": f"{told.kind}-end", "id": told.id, **void}]

    def _end(self, told: Ended) -> list[Part]:
        event = told.event
        metadata: dict[str, Any] = {"usage": usage_reply(event.tokens, event.cost_usd)}
        match event:
            case RunCompleted():
                metadata["agent"] = event.agent
                reason = "tool-calls" if told.client_calls else "stop"
                return [{"type": "finish", "finishReason": reason, "messageMetadata": metadata}]
            case RunCancelled() if event.reason in _WANTED:
                return [
                    {"type": "message-metadata", "messageMetadata": metadata},
                    {"type": "abort", "reason": event.message},
                ]
            case RunCancelled() | RunFailed():
                return [
                    {"type": "message-metadata", "messageMetadata": metadata},
                    {"type": "error", "errorText": event.message},
                    {"type": "finish", "finishReason": "error"},
                ]


def _tool(told: CallMade | CallAnswered | CallDenied | ApprovalAsked | NestedAnswer) -> Iterator[Part]:
    match told:
        case CallMade():
            yield from _call(told)
        case CallAnswered():
            yield _output(told.id, told.output)
        case CallDenied():
            yield {"type": "tool-output-denied", "toolCallId": told.id}
        case ApprovalAsked():
            yield {"type": "tool-approval-request", "approvalId": told.approval_id, "toolCallId": told.call}
        case NestedAnswer():
            yield {**_output(told.call, told.text), "preliminary": True}


def _call(told: CallMade) -> list[Part]:
    executed: dict[str, Any] = {} if told.by == "client" else {"providerExecuted": True}
    named = {"toolCallId": told.id, "toolName": told.name}
    nested: dict[str, Any] = {"toolMetadata": {"scope": told.scope}} if told.scope else {}
    try:
        value = json.loads(told.arguments) if told.arguments else {}
    except ValueError:  # models write what they like; as the AI SDK tells it of its own
        message = "The arguments are not JSON."
        return [{"type": "tool-input-error", **named, "input": told.arguments, "errorText": message, **executed}]
    return [
        {"type": "tool-input-start", **named, **executed, **nested},
        {"type": "tool-input-available", **named, "input": value, **executed, **nested},
    ]


def _output(call: str, output: Any) -> dict[str, Any]:
    return {"type": "tool-output-available", "toolCallId": call, "output": output}


def _line(part: Part) -> bytes:
    return b"data: %b\n\n" % encode(part)
