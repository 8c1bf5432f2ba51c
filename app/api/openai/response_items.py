"""Items of a model's answer as a Response shows them: complete, with ids, and the agent's own calls as `mcp_call`."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from app.api.openai.response_ids import mcp_call_id

ItemKind = Literal["message", "reasoning"]

_PLACEHOLDER_IDS: Final = frozenset({"", "__fake_id__"})
"""What stands for an id where a model's endpoint gives none."""

_OWN_CALLS: Final[Mapping[str, str]] = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "computer_call": "action",
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
}
"""Calls that are executed here, and what their arguments are called. A client that saw them as they are would take
them for its own to execute."""

_ID_PREFIXES: Final[Mapping[str, str]] = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


def is_own_call(item: Mapping[str, Any], client_tools: frozenset[str]) -> bool:
    """Tell whether an item is a call that is executed here, not by the caller."""
    kind = item.get("type")
    return kind in _OWN_CALLS and not (kind == "function_call" and item.get("name") in client_tools)


def call_arguments(item: Mapping[str, Any]) -> str:
    """Return the arguments of a call that is executed here, as text."""
    found = item.get(_OWN_CALLS[str(item["type"])])
    return found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))


def call_name(item: Mapping[str, Any]) -> str:
    """Return the name of the tool that a call is of; hosted tools are named by their type."""
    return str(item.get("name") or str(item["type"]).removesuffix("_call"))


def mcp_call(call_id: str, agent: str, name: str, arguments: str) -> dict[str, Any]:
    """Return the item for a call of the agent's own tools that has begun."""
    return {
        "type": "mcp_call",
        "id": mcp_call_id(call_id),
        "server_label": agent,
        "name": name,
        "arguments": arguments,
        "status": "in_progress",
    }


def own_id(run_hex: str, kind: str, number: int) -> str:
    """Return an id for an item that has none, or one that another item has: `number` counts items of that kind."""
    return f"{_ID_PREFIXES.get(kind, 'item')}_{run_hex}_{number}"


def is_usable_id(given: object) -> bool:
    """Tell whether an endpoint's own id of an item can be shown."""
    return isinstance(given, str) and given not in _PLACEHOLDER_IDS and len(given) <= 128


def shown_item(item: Mapping[str, Any], item_id: str) -> dict[str, Any]:
    """Return an item as a Response shows it: every key there that must be, and no null."""
    shown = {name: value for name, value in item.items() if value is not None} | {"id": item_id}
    match shown.get("type"):
        case "message":
            shown["role"] = "assistant"
            shown["status"] = shown.get("status") or "completed"
            shown["content"] = [shown_part(part) for part in shown.get("content") or () if isinstance(part, Mapping)]
        case "reasoning":
            shown["summary"] = list(shown.get("summary") or ())
        case "function_call":
            shown["status"] = "completed"
        case _:
            pass
    return shown


def shown_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a message as a Response shows it."""
    if part.get("type") == "refusal":
        return {"type": "refusal", "refusal": str(part.get("refusal", ""))}
    return {
        "type": "output_text",
        "text": str(part.get("text", "")),
        "annotations": list(part.get("annotations") or ()),
        "logprobs": list(part.get("logprobs") or ()),
    }


def message_parts(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a message or a reasoning item in the order in which their events are told."""
    if item["type"] == "message":
        return list(item["content"])
    summary = [{"type": "summary_text", "text": str(part.get("text", ""))} for part in item["summary"]]
    content = [
        {"type": "reasoning_text", "text": str(part.get("text", ""))}
        for part in item.get("content") or ()
        if isinstance(part, Mapping)
    ]
    return [*summary, *content]


def empty_item(kind: str, item_id: str, value: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an item as it is before anything is in it; `value` is the whole one, which only some kinds need."""
    match kind:
        case "message":
            return {"type": kind, "id": item_id, "role": "assistant", "status": "in_progress", "content": []}
        case "reasoning":
            return {"type": kind, "id": item_id, "summary": []}
        case "function_call":
            return {**(value or {}), "arguments": "", "status": "in_progress"}
        case _:
            return dict(value or {})
