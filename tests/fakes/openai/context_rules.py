"""Rules on the whole context of a response: history and input together, as the model would read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .input_items import duplicate_ids, is_model_made, item_type
from .wire import ApiError, JsonObject

_CALLS: Mapping[str, str] = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}


def check_context(items: Sequence[JsonObject]) -> None:
    """Refuse a context that the API would refuse.

    The order of an output before its own call counts as no call; the real API's view of that is not documented.

    Raises:
        ApiError: 400, `param` input, `code` None, for a repeated id, an orphan call or output, or lonely reasoning.
    """
    for repeated in duplicate_ids(items):
        raise refuse_input(
            f"Duplicate item found with id {repeated}. Remove duplicate items from your input and try again."
        )
    _check_outputs(items)
    _check_reasoning(items)


def _check_outputs(items: Sequence[Mapping[str, Any]]) -> None:
    called: dict[str, str] = {}
    answered: set[str] = set()
    for item in items:
        kind = item_type(item)
        if kind is not None and kind in _CALLS:
            called[item["call_id"]] = kind
        elif kind in _CALLS.values():
            if item["call_id"] not in called:
                noun = "function call" if kind == "function_call_output" else "custom tool call"
                raise refuse_input(f"No tool call found for {noun} output with call_id {item['call_id']}.")
            answered.add(item["call_id"])
    for call_id, kind in called.items():
        if call_id not in answered:
            noun = "function call" if kind == "function_call" else "custom tool call"
            raise refuse_input(f"No tool output found for {noun} {call_id}.")


def _check_reasoning(items: Sequence[Mapping[str, Any]]) -> None:
    """What follows must be made by the model; the real API also knows which very item it was."""
    for position, item in enumerate(items):
        # Without an id there is nothing to hold the API to: encrypted reasoning is replayed so.
        if item_type(item) != "reasoning" or not item.get("id"):
            continue
        after = next((other for other in items[position + 1 :] if item_type(other) != "reasoning"), None)
        if after is None or not is_model_made(after):
            raise refuse_input(
                f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
            )


def check_reasoning_kept(items: Sequence[Mapping[str, Any]], needs: Mapping[str, str]) -> None:
    """Refuse an item whose reasoning was taken away. `needs` maps the ids of stored items to that reasoning's id."""
    present = {item.get("id") for item in items}
    for item in items:
        reasoning = needs.get(str(item.get("id")))
        if reasoning is not None and reasoning not in present:
            raise refuse_input(
                f"Item '{item['id']}' of type '{item_type(item)}' was provided without its required 'reasoning' item: "
                f"'{reasoning}'."
            )


def refuse_input(message: str) -> ApiError:
    """The shape of every refusal of a context."""
    return ApiError(message, param="input")


def item_not_found(item_id: str) -> ApiError:
    """The 404 of an item that is referred to and was never stored."""
    return ApiError(
        f"Item with id '{item_id}' not found. Items are not persisted when `store` is set to false. "
        "Try again with `store` set to true, or remove this item from your input.",
        status=404,
        param="input",
    )
