"""Items of a response while they are made, and the events of their parts: text, refusal, summary, reasoning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.api.openai.response_items import message_parts
from app.domain.models.events import ReasoningDelta, RefusalDelta, TextDelta

WireEvent = dict[str, Any]
"""One event of a stream, as JSON values."""

_PART_OF_DELTA: Final[Mapping[type[Any], str]] = {
    TextDelta: "output_text",
    RefusalDelta: "refusal",
    ReasoningDelta: "summary_text",
}


@dataclass(frozen=True, slots=True)
class _PartEvents:
    """What the events of one kind of part are called."""

    added: str
    text: str
    """Before `.delta` and `.done`."""
    done: str
    index: str
    """Which number counts parts of this kind."""
    field: str
    """Where the part, and the `.done` event, hold the text."""
    logprobs: bool = False


_CONTENT: Final = ("response.content_part.added", "response.content_part.done", "content_index")
_EVENTS: Final[Mapping[str, _PartEvents]] = {
    "output_text": _PartEvents(_CONTENT[0], "response.output_text", _CONTENT[1], _CONTENT[2], "text", logprobs=True),
    "refusal": _PartEvents(_CONTENT[0], "response.refusal", _CONTENT[1], _CONTENT[2], "refusal"),
    "reasoning_text": _PartEvents(_CONTENT[0], "response.reasoning_text", _CONTENT[1], _CONTENT[2], "text"),
    "summary_text": _PartEvents(
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text",
        "response.reasoning_summary_part.done",
        "summary_index",
        "text",
    ),
}


@dataclass(slots=True)
class _Part:
    kind: str
    delta: Mapping[str, Any]
    """What all its deltas say."""
    texts: list[str] = field(default_factory=list[str])

    def so_far(self) -> dict[str, Any]:
        return _part(self.kind, "".join(self.texts))


@dataclass(slots=True)
class OpenItem:
    """An item that has been added to a response."""

    index: int
    id: str
    kind: str
    step: str
    """The model call that makes it; empty for items that no model call can take back."""
    value: dict[str, Any] | None = None
    """The whole item; None while it is made."""
    void: bool = False
    """True: its model call is made again."""
    call: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of an `mcp_call`: the item as it began."""
    parts: list[_Part] = field(default_factory=list[_Part])
    """What was told of it in deltas."""

    def so_far(self) -> dict[str, Any]:
        """Return the item as far as deltas have told it."""
        parts = [part.so_far() for part in self.parts]
        if self.kind == "reasoning":
            return {"type": "reasoning", "id": self.id, "summary": parts, "status": "incomplete"}
        return {"type": "message", "id": self.id, "role": "assistant", "status": "incomplete", "content": parts}


def added(item: OpenItem, first: dict[str, Any]) -> WireEvent:
    """Return the event that adds an item; `first` is how it looks before anything is in it."""
    return {"type": "response.output_item.added", "output_index": item.index, "item": first}


def delta_told(item: OpenItem, event: TextDelta | ReasoningDelta | RefusalDelta) -> list[WireEvent]:
    """Return the events of a delta: its own, and before it that of the part that it begins."""
    kind = _PART_OF_DELTA[type(event)]
    begun = [] if item.parts and item.parts[-1].kind == kind else [part_added(item, kind)]
    part = item.parts[-1]
    part.texts.append(event.delta)
    return [*begun, {**part.delta, "delta": event.delta}]


def part_added(item: OpenItem, kind: str) -> WireEvent:
    """Begin a part of an item and return the event that adds it."""
    names = _EVENTS[kind]
    place = _place(item, len(item.parts), kind)
    delta = {"type": f"{names.text}.delta", **place, "delta": ""}
    item.parts.append(_Part(kind, {**delta, "logprobs": []} if names.logprobs else delta))
    return {"type": names.added, **place, "part": _part(kind, "")}


def parts_done(item: OpenItem, value: Mapping[str, Any]) -> list[WireEvent]:
    """Return the events that end the parts of an item, and tell those that no delta has told.

    Several parts of one kind are one to a reader of deltas; the ends of the parts say what each of them is.
    """
    parts = message_parts(value)
    streamed = [part.kind for part in item.parts]
    if streamed != [part["type"] for part in parts][: len(streamed)]:
        parts = [part.so_far() for part in item.parts]  # told as something else than it is in the end
    told: list[WireEvent] = []
    for index, part in enumerate(parts):
        if index >= len(item.parts):
            told.append(part_added(item, part["type"]))
            text = part[_EVENTS[part["type"]].field]
            if text and not streamed:
                told.append({**item.parts[index].delta, "delta": text})
        told += _part_done(item, index, part)
    return told


def _part_done(item: OpenItem, index: int, part: dict[str, Any]) -> list[WireEvent]:
    names = _EVENTS[part["type"]]
    place = _place(item, index, part["type"])
    text = {"type": f"{names.text}.done", **place, names.field: part[names.field]}
    if names.logprobs:
        text["logprobs"] = part["logprobs"]
    annotations = [
        {
            "type": "response.output_text.annotation.added",
            **place,
            "annotation_index": number,
            "annotation": annotation,
        }
        for number, annotation in enumerate(part.get("annotations", ()))
    ]
    return [*annotations, text, {"type": names.done, **place, "part": part}]


def _place(item: OpenItem, index: int, kind: str) -> dict[str, Any]:
    counted = _EVENTS[kind].index
    number = sum(_EVENTS[part.kind].index == counted for part in item.parts[:index])
    return {"item_id": item.id, "output_index": item.index, counted: number}


def _part(kind: str, text: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": kind, _EVENTS[kind].field: text}
    return {**part, "annotations": [], "logprobs": []} if kind == "output_text" else part
