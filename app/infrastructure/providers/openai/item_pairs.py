"""Calls and their outputs in a history: the API refuses one without the other."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from app.domain.models.conversations import Item

OUTPUT_OF_CALL: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "computer_call": "computer_call_output",
    "shell_call": "shell_call_output",
    "local_shell_call": "local_shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "tool_search_call": "tool_search_output",
    "program": "program_output",
    "mcp_approval_request": "mcp_approval_response",
}
"""Every item type of the Responses API that needs a second item after it, with the type of that item."""

_CALL_OF_OUTPUT: Final = {output: call for call, output in OUTPUT_OF_CALL.items()}


def pair_safe(items: Sequence[Item]) -> list[Item]:
    """Return the items without those that the API would refuse for want of their other half, in the same order.

    Left out: an output with no call before it, a call with no output after it, whatever a program asked for that is
    itself left out or absent, and a reasoning item whose following item is left out. Where a call id was used twice,
    an output belongs to the nearest open call before it. Items are neither changed nor copied.
    """
    programs = _complete_programs(items)
    dropped = {index for index, item in enumerate(items) if _owner(item) not in programs}
    _drop_unpaired(items, dropped)
    if not dropped:
        return list(items)
    _drop_reasoning_before(items, dropped)
    return [item for index, item in enumerate(items) if index not in dropped]


def _complete_programs(items: Sequence[Item]) -> Collection[str | None]:
    """Return the call ids of programs that have an output after them, and None, the owner of all other items."""
    begun: set[str] = set()
    complete: set[str | None] = {None}
    for item in items:
        call_id = item.get("call_id")
        if not isinstance(call_id, str):
            continue
        if item.get("type") == "program":
            begun.add(call_id)
        elif item.get("type") == "program_output" and call_id in begun:
            complete.add(call_id)
    return complete


def _owner(item: Item) -> str | None:
    """Return the call id of the program that asked for the item; None: the model asked for it, or nobody had to."""
    caller: Any = item.get("caller")
    if not isinstance(caller, dict) or caller.get("type") != "program":
        return None
    owner = caller.get("caller_id")
    return owner if isinstance(owner, str) else None


def _drop_unpaired(items: Sequence[Item], dropped: set[int]) -> None:
    """Add the positions of calls without an output and of outputs without a call."""
    open_calls: dict[tuple[str, str | None], list[int]] = {}
    owned_elsewhere = frozenset(dropped)
    for index, item in enumerate(items):
        kind = item.get("type")
        if not isinstance(kind, str) or index in owned_elsewhere:
            continue
        if kind in OUTPUT_OF_CALL:
            dropped.add(index)  # until its output is found
            for key in _call_keys(item):
                open_calls.setdefault((kind, key), []).append(index)
        elif kind in _CALL_OF_OUTPUT:
            calls = open_calls.get((_CALL_OF_OUTPUT[kind], _output_key(item)), [])
            while calls and calls[-1] not in dropped:  # paired already, by its other key
                calls.pop()
            if calls:
                dropped.discard(calls.pop())
            else:
                dropped.add(index)


def _call_keys(call: Item) -> set[str | None]:
    """Return what an output may name the call by; None where the call has no name (a search the server ran)."""
    match call.get("type"):
        case "mcp_approval_request":
            return {_text(call, "id")}
        case "local_shell_call":  # the API's output names it by `id`, the SDK's by `call_id`
            return {_text(call, "call_id"), _text(call, "id")} - {None} or {None}
        case _:
            return {_text(call, "call_id")}


def _output_key(output: Item) -> str | None:
    match output.get("type"):
        case "mcp_approval_response":
            return _text(output, "approval_request_id")
        case "local_shell_call_output":
            return _text(output, "call_id") or _text(output, "id")
        case _:
            return _text(output, "call_id")


def _text(item: Item, field: str) -> str | None:
    value = item.get(field)
    return value if isinstance(value, str) else None


def _drop_reasoning_before(items: Sequence[Item], dropped: set[int]) -> None:
    """Add reasoning items whose next item other than reasoning is dropped; one at the very end stays."""
    follower_dropped = False
    for index in range(len(items) - 1, -1, -1):
        if items[index].get("type") != "reasoning":
            follower_dropped = index in dropped
        elif follower_dropped:
            dropped.add(index)
