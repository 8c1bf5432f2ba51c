"""Tool calls in the history: outputs as text, and closing outputs for calls that were never answered."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from pydantic_core import to_jsonable_python

from app.domain.models.conversations import Item

_OUTPUT_TYPES: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
}
"""Calls that we answer ourselves when a run is interrupted; the other kinds are answered by the provider."""

INTERRUPTED_OUTPUT: Final = "The run was interrupted before this tool finished. Its outcome is unknown."


def output_text(result: object) -> str:
    """Return what the model reads of a tool's result: text as it is, anything else as JSON."""
    if isinstance(result, str):
        return result
    return msgspec.json.encode(to_jsonable_python(result, fallback=str)).decode()


def closed(items: Sequence[Item], outputs: Mapping[str, str]) -> list[Item]:
    """Return the items with an output for every open call, right behind the calls of the same answer.

    `outputs` holds the outputs of tools that had finished, by call id; the others are told that the run was
    interrupted. The API refuses a history with an open call, so the conversation could not go on without this.
    """
    answered = {item["call_id"] for item in items if str(item.get("type", "")).endswith("_output")}
    result = list(items)
    for item in items:
        output_type = _OUTPUT_TYPES.get(str(item.get("type")))
        if output_type is not None and item["call_id"] not in answered:
            output = outputs.get(item["call_id"], INTERRUPTED_OUTPUT)
            result.append({"type": output_type, "call_id": item["call_id"], "output": output})
    return result


def without_reasoning_tail(items: Sequence[Item]) -> list[Item]:
    """Drop reasoning items at the end: the API wants each to be followed by what it led to."""
    kept = list(items)
    while kept and kept[-1].get("type") == "reasoning":
        kept.pop()
    return kept


def unseen(items: Iterable[Item], known: Sequence[Item]) -> list[Item]:
    """Return the items that are not among the known ones, by id where there is one, else by call id and type."""
    seen = {_identity(item) for item in known}
    return [item for item in items if _identity(item) not in seen]


def _identity(item: Item) -> tuple[Any, ...]:
    kind = item.get("type", "message")
    if "call_id" in item:
        return (kind, item["call_id"])
    identifier = item.get("id")
    if identifier and identifier != "__fake_id__":
        return (kind, identifier)
    return (kind, msgspec.json.encode(item, order="sorted"))
