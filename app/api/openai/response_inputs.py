"""A request's `input` as items for a run, or as answers to the approvals that a run waits for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from app.api.errors import HttpError
from app.api.openai.response_faults import missing, refused, wrong_type, wrong_value
from app.api.openai.response_ids import parsed_approval_id, parsed_mcp_call_id
from app.domain.models.conversations import Item

_ROLES: Final = ("user", "assistant", "system", "developer")
_GIVEN_PARTS: Final = {
    "input_text": ("text",),
    "input_image": ("image_url",),
    "input_file": ("file_data", "file_url"),
}
"""Parts of messages and outputs, and of which of their fields one must be there."""

_SAID_PARTS: Final = {"output_text": ("text",), "refusal": ("refusal",)}

_HOSTED: Final = frozenset(
    {"code_interpreter_call", "file_search_call", "image_generation_call", "mcp_list_tools", "web_search_call"}
)
"""What the model's endpoint has done by itself in an earlier response: given back as it was."""


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """A person's answer to a request for approval."""

    run_id: str
    call: str
    approve: bool
    reason: str | None
    param: str
    """Where in the request it stands."""


@dataclass(frozen=True, slots=True)
class AskedInput:
    """What a request puts in: items for a new run, or answers for one that waits."""

    items: str | list[Item]
    answers: tuple[ApprovalAnswer, ...] = ()


def asked_input(given: object, *, continues: bool) -> AskedInput:
    """Check an input and return what it means.

    `continues`: there is a history before it, which may hold the calls that its outputs are of.

    Raises:
        HttpError: 400; `param` is the path of what is wrong.
    """
    if given is None:
        raise missing("input")
    if isinstance(given, str):
        return AskedInput(given)
    if not isinstance(given, list):
        raise wrong_type("input", "a string or an array of items", given)
    if not given:
        raise wrong_value("input", "at least one item is needed.")
    entries = cast("list[object]", given)
    answers = tuple(_answer(entry, f"input[{index}]") for index, entry in enumerate(entries) if _is_answer(entry))
    if answers:
        if len(answers) < len(entries):
            raise wrong_value("input", "answers to requests for approval stand alone: send other items afterwards.")
        return AskedInput([], answers)
    items = [item for index, entry in enumerate(entries) for item in _items(entry, f"input[{index}]")]
    if not items:
        raise wrong_value("input", "nothing in it says anything.")
    if not continues:
        _check_pairs(items)
    return AskedInput(items)


def _is_answer(entry: object) -> bool:
    return isinstance(entry, Mapping) and entry.get("type") == "mcp_approval_response"


def _answer(entry: object, param: str) -> ApprovalAnswer:
    item = cast("Mapping[str, Any]", entry)
    _only(item, param, "type", "approval_request_id", "approve", "reason", "id")
    run_id, call = parsed_approval_id(_text(item, "approval_request_id", param), f"{param}.approval_request_id")
    approve, reason = item.get("approve"), item.get("reason")
    if not isinstance(approve, bool):
        raise wrong_type(f"{param}.approve", "a boolean", approve)
    if reason is not None and not isinstance(reason, str):
        raise wrong_type(f"{param}.reason", "a string", reason)
    return ApprovalAnswer(run_id, call, approve, reason, param)


def _items(entry: object, param: str) -> list[Item]:
    if not isinstance(entry, Mapping):
        raise wrong_type(param, "an object", entry)
    item = cast("Mapping[str, Any]", entry)
    kind = item.get("type")
    if kind is None and "role" not in item:
        kind = "item_reference" if "id" in item else None
    match kind:
        case "message" | None:
            return _message(item, param)
        case "function_call":
            _only(item, param, "type", "id", "call_id", "name", "arguments", "status")
            names = {name: _text(item, name, param) for name in ("call_id", "name", "arguments")}
            return [{"type": kind, **names, **_kept(item, "id", "status")}]
        case "function_call_output":
            _only(item, param, "type", "id", "call_id", "output", "status")
            output = _content(item.get("output"), f"{param}.output", _GIVEN_PARTS)
            return [{"type": kind, "call_id": _text(item, "call_id", param), "output": output}]
        case "reasoning":
            _only(item, param, "type", "id", "summary", "content", "encrypted_content", "status")
            return [{"type": kind, "summary": [], **_kept(item, "id", "summary", "content", "encrypted_content")}]
        case "mcp_call":
            return _executed_call(item, param)
        case "item_reference":
            message = "references to items are not supported: name previous_response_id, or give the item itself."
            raise refused(f"{param}.type", message)
        case "mcp_approval_request":
            raise refused(f"{param}.type", "a request for approval is answered by an mcp_approval_response alone.")
        case str() if kind in _HOSTED:
            return [{str(name): value for name, value in item.items() if value is not None}]
        case str():
            raise refused(f"{param}.type", f"items of type '{kind[:40]}' are not supported.")
        case _:
            raise wrong_type(f"{param}.type", "a string", kind)


def _message(item: Mapping[str, Any], param: str) -> list[Item]:
    _only(item, param, "type", "role", "content", "id", "status", "phase")
    role = item.get("role")
    if role is None:
        raise missing(f"{param}.role")
    if role not in _ROLES:
        raise wrong_value(f"{param}.role", f"supported values are {', '.join(_ROLES)}.")
    if role != "assistant":
        return [{"role": role, "content": _content(item.get("content"), f"{param}.content", _GIVEN_PARTS)}]
    if item.get("status") == "incomplete" and not item.get("content"):
        return []  # one that a lost model call had begun
    # People write a model's words as input_text, too; only outputs are taken for them.
    content = _content(item.get("content"), f"{param}.content", _SAID_PARTS)
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    parts = [{"annotations": [], **part} if part["type"] == "output_text" else part for part in content]
    return [{"type": "message", "role": role, "status": "completed", "content": parts, **_kept(item, "id", "phase")}]


def _content(content: object, param: str, kinds: Mapping[str, Sequence[str]]) -> Any:
    if content is None:
        raise missing(param)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong_type(param, "a string or an array of parts", content)
    return [_part(part, f"{param}[{index}]", kinds) for index, part in enumerate(cast("list[object]", content))]


def _part(given: object, param: str, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise wrong_type(param, "an object", given)
    part = cast("Mapping[str, Any]", given)
    kind = part.get("type")
    if kind is None:
        raise missing(f"{param}.type")
    if kind not in kinds:
        raise wrong_value(f"{param}.type", f"supported values are {', '.join(kinds)}.")
    if part.get("file_id") is not None:
        raise refused(f"{param}.file_id", "files are not kept here: send the file's data or its address.")
    found = [name for name in kinds[kind] if part.get(name) is not None]
    if not found:
        raise missing(f"{param}.{kinds[kind][0]}")
    for name in (*found, *(name for name in ("filename", "detail") if part.get(name) is not None)):
        _text(part, name, param)
    return {str(name): value for name, value in part.items() if value is not None}


def _executed_call(item: Mapping[str, Any], param: str) -> list[Item]:
    """Return a call of an agent's own tools, as an earlier response showed it, as the model has seen it."""
    call_id = parsed_mcp_call_id(_text(item, "id", param))
    call = {
        "type": "function_call",
        "call_id": call_id,
        "name": _text(item, "name", param),
        "arguments": _text(item, "arguments", param),
    }
    output = item.get("output")
    if output is not None and not isinstance(output, str):
        raise wrong_type(f"{param}.output", "a string", output)
    said = "The call did not finish." if output is None else output
    return [call, {"type": "function_call_output", "call_id": call_id, "output": said}]


def _check_pairs(items: Sequence[Item]) -> None:
    """Refuse an output whose call is nowhere: no model's endpoint would take it."""
    called: set[Any] = set()
    for item in items:
        if item.get("type") == "function_call":
            called.add(item["call_id"])
        elif item.get("type") == "function_call_output" and item["call_id"] not in called:
            message = f"No tool call found for function call output with call_id {item['call_id'][:80]}."
            raise HttpError(400, "invalid_value", message, param="input")


def _only(item: Mapping[str, Any], param: str, *names: str) -> None:
    for name, value in item.items():
        if value is not None and name not in names:
            raise refused(f"{param}.{name[:40]}", "this field is not supported.", code="unknown_parameter")


def _text(item: Mapping[str, Any], name: str, param: str) -> str:
    value = item.get(name)
    if value is None:
        raise missing(f"{param}.{name}")
    if not isinstance(value, str):
        raise wrong_type(f"{param}.{name}", "a string", value)
    return value


def _kept(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: item[name] for name in names if item.get(name) is not None}
