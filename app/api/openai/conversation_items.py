"""Items of a conversation on the wire: what clients may add, and what they are shown."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

from openai.types.conversations import ConversationItem as WireItem
from pydantic import TypeAdapter, ValidationError

from app.api.errors import HttpError
from app.api.openai.response_faults import missing, refused, wrong_type, wrong_value
from app.api.openai.response_inputs import asked_input
from app.api.openai.response_items import shown_part
from app.domain.item_ids import item_kind
from app.domain.models.conversations import ConversationItem, Item

MAX_ITEMS: Final = 20
"""Items of one request; the platform takes no more."""

_READ_BY_AGENTS: Final = frozenset({"message", "function_call", "function_call_output", "reasoning", "mcp_call"})
"""Kinds that agents of ours take as input; they are checked, and kept, as those of a response are."""

_KEPT_AS_THEY_ARE: Final = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "custom_tool_call",
        "custom_tool_call_output",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
"""Kinds that agents of the client's own may have in their history."""

_WITHOUT_STATUS: Final = frozenset(
    {
        "additional_tools",
        "compaction",
        "configuration_update",
        "custom_tool_call",
        "custom_tool_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_list_tools",
        "program",
        "reasoning",
    }
)


def given_items(entries: Sequence[object], param: str = "items") -> list[Item]:
    """Check items that a client adds, and return them as they are kept; a call of an agent's own tools is two items.

    Raises:
        HttpError: 400; `param` is the path of what is wrong.
    """
    if len(entries) > MAX_ITEMS:
        raise wrong_value(param, f"at most {MAX_ITEMS} items are taken at a time.")
    return [item for index, entry in enumerate(entries) for item in _given(entry, f"{param}[{index}]")]


def _given(entry: object, param: str) -> list[Item]:
    if not isinstance(entry, Mapping):
        raise wrong_type(param, "an object", entry)
    given = cast("Mapping[str, Any]", entry)
    kind = given.get("type")
    if kind is None and "role" not in given:
        raise missing(f"{param}.type")
    if kind is not None and not isinstance(kind, str):
        raise wrong_type(f"{param}.type", "a string", kind)
    if kind == "item_reference":
        raise refused(f"{param}.type", "references to items are not supported: give the item itself.")
    if kind is None or kind in _READ_BY_AGENTS:
        return _checked(given, param)
    if kind not in _KEPT_AS_THEY_ARE:
        raise refused(f"{param}.type", f"items of type '{kind[:40]}' are not supported.")
    item = {str(name): value for name, value in given.items() if value is not None}
    try:
        _wire_items().validate_python(shown_item(ConversationItem("item_0", item)))
    except ValidationError as error:
        raise wrong_value(param, f"it lacks what an item of type '{kind}' has.") from error
    return [item]


def _checked(given: Mapping[str, Any], param: str) -> list[Item]:
    try:
        items = asked_input([given], continues=True).items
    except HttpError as error:
        fault = error.body
        where = (fault.param or "input[0]").replace("input[0]", param, 1).replace("input", param, 1)
        raise HttpError(error.status, fault.code, fault.message.replace("input[0]", param), param=where) from error
    assert isinstance(items, list)
    return items


@cache
def _wire_items() -> TypeAdapter[Any]:
    """Return what checks an item as the client will; made on first use, as it takes a while and is rarely needed."""
    return TypeAdapter(WireItem)


def shown_item(entry: ConversationItem) -> dict[str, Any]:
    """Return an item with its id and every field that clients expect of its kind, and no null."""
    kind = item_kind(entry.item)
    shown = {name: value for name, value in entry.item.items() if value is not None} | {"id": entry.id, "type": kind}
    if kind not in _WITHOUT_STATUS:
        shown.setdefault("status", "completed")
    match kind:
        case "message":
            shown["content"] = _shown_content(entry.item)
        case "reasoning":
            shown.setdefault("summary", [])
        case "function_call_output" | "custom_tool_call_output":
            output = shown.get("output", "")
            shown["output"] = output if isinstance(output, str) else [_given_part(part) for part in _parts(output)]
        case "computer_call":
            shown.setdefault("pending_safety_checks", [])
        case _:
            pass
    return shown


def _shown_content(item: Item) -> list[dict[str, Any]]:
    content, said = item.get("content"), item.get("role") == "assistant"
    if isinstance(content, str):
        content = [{"type": "output_text" if said else "input_text", "text": content}]
    return [shown_part(part) if said else _given_part(part) for part in _parts(content)]


def _parts(content: object) -> list[Mapping[str, Any]]:
    if not isinstance(content, list):
        return []
    return [part for part in cast("list[Any]", content) if isinstance(part, Mapping)]


def _given_part(part: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in part.items() if value is not None}
    return {"detail": "auto", **shown} if shown.get("type") == "input_image" else shown
