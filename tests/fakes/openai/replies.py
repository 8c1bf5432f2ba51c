"""What the fake model says: the parts of a reply, and replies to put in a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .asks import Ask


@dataclass(frozen=True)
class Text:
    """An assistant message with one text; may be empty."""

    text: str


@dataclass(frozen=True)
class Refusal:
    """An assistant message that refuses, with the reason it gives."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A reasoning item before what follows it. Its words are the reasoning tokens, also where no summary is shown.

    Chat Completions has no reasoning items: there only the tokens are seen.
    """

    summary: str = "thinking"


@dataclass(frozen=True)
class Call:
    """A function call. `arguments` is an object, or a string to send as it is (for broken JSON).

    `call_id` None takes a new id.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    call_id: str | None = None

    @property
    def wire_arguments(self) -> str:
        """The arguments as the API sends them: a string that should hold JSON."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(dict(self.arguments))


Part: TypeAlias = Text | Refusal | Reasoning | Call


@dataclass(frozen=True)
class Usage:
    """Token counts of one model call, as the API reports them; `reasoning` is a part of `output`."""

    input: int
    output: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Reply:
    """One answer of the model. `usage` None counts by the rule in `metering.py`.

    `status` "incomplete" gives `response.incomplete` (chat: `finish_reason` length or content_filter) with `reason`;
    "failed" gives `response.failed` after `parts`, with `error_code` and `error_message` (chat: a 500, or an error
    event in a stream), no usage, and nothing is added to a conversation.
    """

    parts: tuple[Part, ...]
    status: Literal["completed", "incomplete", "failed"] = "completed"
    reason: Literal["max_output_tokens", "content_filter"] = "max_output_tokens"
    error_code: str = "server_error"
    error_message: str = "The model failed to generate a response."
    usage: Usage | None = None


def incomplete(
    *parts: Part | str, reason: Literal["max_output_tokens", "content_filter"] = "max_output_tokens"
) -> Reply:
    """A reply that was cut off by a token limit or a content filter after `parts`."""
    return Reply(_parts(parts), status="incomplete", reason=reason)


def failed(
    *parts: Part | str,
    code: str = "server_error",
    message: str = "The model failed to generate a response.",
) -> Reply:
    """A model failure after `parts`: HTTP 200, a response with status failed. `code` must be one of the API's own."""
    return Reply(_parts(parts), status="failed", error_code=code, error_message=message)


Scripted: TypeAlias = Reply | Part | str | Sequence[Part | str] | Callable[[Ask], "Scripted"]
"""What a script takes: a whole reply, one part, a text, several parts, or a function of what the model was asked."""


def resolve(entry: Scripted, ask: Ask) -> Reply:
    """Turn one entry of a script into the reply to `ask`."""
    if isinstance(entry, Reply):
        return entry
    if isinstance(entry, str | Text | Refusal | Reasoning | Call):
        return Reply(_parts((entry,)))
    if callable(entry):
        return resolve(entry(ask), ask)
    return Reply(_parts(tuple(entry)))


def _parts(entries: Sequence[Part | str]) -> tuple[Part, ...]:
    return tuple(Text(entry) if isinstance(entry, str) else entry for entry in entries)
