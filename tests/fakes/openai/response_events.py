"""The event stream of a response, in the order of the real API."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .response_objects import content_part
from .wire import JsonObject, encode

_WORD = re.compile(r"\S+\s*|\s+")
_ARGUMENT_CHUNK = 12


def frames(opened: JsonObject, closed: JsonObject) -> list[bytes]:
    """All events as SSE frames: `event:` equals `type`, sequence numbers from 0 without a gap.

    Per output item one `output_item.added`, the events of its content and one `output_item.done`; the last event is
    response.completed, response.incomplete or response.failed.
    """
    return [
        b"event: " + event["type"].encode() + b"\ndata: " + encode({**event, "sequence_number": number}) + b"\n\n"
        for number, event in enumerate(_events(opened, closed))
    ]


def _events(opened: JsonObject, closed: JsonObject) -> Iterator[JsonObject]:
    yield {"type": "response.created", "response": opened}
    yield {"type": "response.in_progress", "response": opened}
    for index, item in enumerate(closed["output"]):
        yield {"type": "response.output_item.added", "output_index": index, "item": _empty(item)}
        place = {"item_id": item["id"], "output_index": index}
        for event in _inner(item):
            yield {**event, **place}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{closed['status']}", "response": closed}


def _empty(item: JsonObject) -> JsonObject:
    """The item as it is announced: before any content."""
    match item["type"]:
        case "message":
            return {**item, "status": "in_progress", "content": []}
        case "function_call":
            return {**item, "status": "in_progress", "arguments": ""}
        case _:
            return {**item, "summary": []}


def _inner(item: JsonObject) -> Iterator[JsonObject]:
    match item["type"]:
        case "message":
            yield from _message(item["content"][0])
        case "function_call":
            yield from _call(item)
        case _:
            for index, part in enumerate(item["summary"]):
                for event in _summary(part):
                    yield {**event, "summary_index": index}


def _message(part: JsonObject) -> Iterator[JsonObject]:
    refusal = part["type"] == "refusal"
    place = {"content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": content_part("", refusal=refusal)}
    if refusal:
        for delta in words(part["refusal"]):
            yield {"type": "response.refusal.delta", **place, "delta": delta}
        yield {"type": "response.refusal.done", **place, "refusal": part["refusal"]}
    else:
        for delta in words(part["text"]):
            yield {"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []}
        yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _call(item: JsonObject) -> Iterator[JsonObject]:
    for delta in chunks(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", "delta": delta}
    yield {"type": "response.function_call_arguments.done", "name": item["name"], "arguments": item["arguments"]}


def _summary(part: JsonObject) -> Iterator[JsonObject]:
    name = "response.reasoning_summary"
    yield {"type": f"{name}_part.added", "part": {**part, "text": ""}}
    for delta in words(part["text"]):
        yield {"type": f"{name}_text.delta", "delta": delta}
    yield {"type": f"{name}_text.done", "text": part["text"]}
    yield {"type": f"{name}_part.done", "part": part}


def words(text: str) -> list[str]:
    """A text in deltas: one word each, with the white space after it."""
    return _WORD.findall(text)


def chunks(text: str) -> list[str]:
    """Call arguments in deltas of 12 characters, so that JSON is split at awkward places."""
    return [text[start : start + _ARGUMENT_CHUNK] for start in range(0, len(text), _ARGUMENT_CHUNK)]
