"""Tool calls in the history: outputs as text, unique ids, and closing outputs for calls that were never answered."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from agents import FunctionTool, ItemHelpers, Tool
from openai.types.responses import ResponseFunctionToolCall

from app.domain.errors import InvalidInput
from app.domain.models.conversations import Item
from app.infrastructure.providers.openai import wire_json
from app.infrastructure.providers.openai.item_pairs import OUTPUT_OF_CALL

_OUTPUT_TYPES: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
}
"""Calls that we answer ourselves when a run is interrupted; the other kinds are answered by the provider."""

_GIVEN_TYPES: Final = frozenset(OUTPUT_OF_CALL.values()) - {"program_output", "tool_search_output"}
"""Items that are told to the model, besides the messages of users."""

_ANY_CALL: Final = ResponseFunctionToolCall(arguments="{}", call_id="call", name="tool", type="function_call")

INTERRUPTED_OUTPUT: Final = "The run was interrupted before this tool finished. Its outcome is unknown."


def output_text(result: object, tool: Tool | None = None) -> str:
    """Return what the model reads of a tool's result, as the SDK writes it: its text; with pictures or files, JSON."""
    if isinstance(result, str):
        return result
    schema = tool.output_json_schema if isinstance(tool, FunctionTool) else None
    written = ItemHelpers.tool_call_output_item(_ANY_CALL, result, output_json_schema=schema)["output"]
    if isinstance(written, str):
        return written
    if all(part["type"] == "input_text" for part in written):
        return "\n".join(str(part.get("text", "")) for part in written)
    return wire_json.encode(written)


def kind_of(call: Any) -> str:
    """Return the type of a call as the model made it, such as `apply_patch_call`."""
    kind = call.get("type") if isinstance(call, Mapping) else getattr(call, "type", None)
    return str(kind or "unknown")


def has_calls(answer: Sequence[Item]) -> bool:
    """Tell whether an answer of the model asks for something that we answer."""
    return any(item.get("type") in _OUTPUT_TYPES for item in answer)


def refuse_unasked(given: Sequence[Item], unasked: Sequence[Item]) -> None:
    """Refuse input that answers calls which nobody made; `unasked` is what of it has no other half.

    Raises:
        InvalidInput: as the API does, naming the call.
    """
    strangers = {id(item) for item in unasked}
    for index, item in enumerate(given):
        if id(item) in strangers and item.get("type") in _GIVEN_TYPES:
            call_id = str(item.get("call_id"))[:80]
            message = f"No tool call found for function call output with call_id {call_id}."
            raise InvalidInput(message, param=f"input[{index}].call_id")


def text_of(answer: Sequence[Item]) -> str:
    """Return the text of the messages of an answer; empty when it has none."""
    return "\n".join(_said(item.get("content")) for item in answer if item.get("type") == "message")


def closed(items: Sequence[Item], outputs: Mapping[str, str]) -> list[Item]:
    """Return the items with an output for every open call, after all of them, in the order of the calls.

    `outputs` holds the outputs of tools that had finished, by call id; the others are told that the run was
    interrupted. The API refuses a history with an open call, so the conversation could not go on without this.
    """
    answered = {item.get("call_id") for item in items if str(item.get("type", "")).endswith("_output")}
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
    """Return the items that are not among the known ones: by call id, else by id, and messages by what they say."""
    seen = {_identity(item) for item in known}
    return [item for item in items if _identity(item) not in seen]


def undelivered(history: Sequence[Item]) -> list[Item]:
    """Return the end of a mirrored history that the provider, which keeps the history itself, has never been sent.

    The provider has everything up to what its model said last: its answer is what tells us that a request arrived.
    After a failed run that leaves the outputs of its last calls, or its whole input.
    """
    end = len(history)
    while end and _is_given(history[end - 1]):
        end -= 1
    return [dict(item) for item in history[end:]]


def with_unique_ids(history: Sequence[Item]) -> Sequence[Item]:
    """Return the history with calls renamed whose id an earlier call has too, and their outputs with them.

    Some endpoints count from `call_0` in every answer. Where the first of them is out of sight of a run, the second
    is stored under the same id; the SDK would drop the older pair of two that a later run sees together.
    """
    taken: set[str] = set()
    current: dict[str, str] = {}
    result = list(history)
    for index, item in enumerate(history):
        call_id = item.get("call_id")
        if not isinstance(call_id, str):
            continue
        if item.get("type") in _OUTPUT_TYPES:
            current[call_id] = call_id if call_id not in taken else _free_id(call_id, taken)
            taken.add(current[call_id])
        if current.get(call_id, call_id) != call_id:
            result[index] = {**item, "call_id": current[call_id]}
    return result


def _free_id(call_id: str, taken: set[str]) -> str:
    number = 2
    while f"{call_id}_{number}" in taken:
        number += 1
    return f"{call_id}_{number}"


def _is_given(item: Item) -> bool:
    if "role" in item:
        return item["role"] != "assistant"
    return item.get("type") in _GIVEN_TYPES


def _identity(item: Item) -> tuple[Any, ...]:
    kind = item.get("type", "message")
    if "call_id" in item:
        return (kind, item["call_id"])
    if "role" in item:
        return ("message", item["role"], _said(item.get("content")))
    identifier = item.get("id")
    if identifier and identifier != "__fake_id__":
        return (kind, identifier)
    return (kind, wire_json.encode(sorted(item.items())))


def _said(content: object) -> str:
    if isinstance(content, str) or not isinstance(content, list):
        return str(content)
    parts = cast("list[dict[str, Any]]", content)
    return "\n".join(str(part.get("text") or part.get("refusal") or wire_json.encode(part)) for part in parts)
