"""Input items of the Responses and Conversations APIs: their shapes, and their words.

Each item is told by its `type` and checked against that type alone. Messages, reasoning items and function outputs have
shapes of their own here, because the API's differ from the published types: an assistant message needs no id, status or
annotations; a reasoning item with encrypted content needs no id; a function output needs its `call_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, Required, get_args

from openai.types.responses import (
    ResponseInputFileParam,
    ResponseInputImageParam,
    ResponseInputItemParam,
    ResponseInputTextParam,
    ResponseOutputRefusalParam,
)
from openai.types.responses.response_output_text_param import Annotation, Logprob
from openai.types.responses.response_reasoning_item_param import Content as ReasoningContent
from openai.types.responses.response_reasoning_item_param import Summary
from typing_extensions import TypedDict, get_type_hints

from .asks import Entry, content_text
from .schemas import check, invalid_value, missing, no_longer_than
from .wire import ApiError, JsonObject

_Status = Literal["in_progress", "completed", "incomplete"]
_ID_PREFIXES: Mapping[str, str] = {"message": "msg", "function_call": "fc", "reasoning": "rs"}
_MODEL_MADE = ("function_call", "reasoning", "custom_tool_call")
MAX_ID_CHARACTERS = 64


class _OutputText(TypedDict, total=False):
    type: Required[Literal["output_text"]]
    text: Required[str]
    annotations: list[Annotation] | None
    logprobs: list[Logprob] | None


class _AssistantMessage(TypedDict, total=False):
    role: Required[Literal["assistant"]]
    content: Required[str | list[_OutputText | ResponseOutputRefusalParam]]
    type: Literal["message"]
    id: str | None
    status: _Status | None
    phase: Literal["commentary", "final_answer"] | None


class _InputMessage(TypedDict, total=False):
    role: Required[Literal["user", "system", "developer"]]
    content: Required[str | list[ResponseInputTextParam | ResponseInputImageParam | ResponseInputFileParam]]
    type: Literal["message"]
    id: str | None
    status: _Status | None


class _Reasoning(TypedDict, total=False):
    type: Required[Literal["reasoning"]]
    summary: Required[list[Summary]]
    id: str | None
    content: list[ReasoningContent] | None
    encrypted_content: str | None
    status: _Status | None


@cache
def item_types() -> Mapping[str, object]:
    """The accepted item types by the value of `type`; the messages are not among them."""
    found: dict[str, object] = {}
    for item_type in get_args(ResponseInputItemParam):
        for tag in _literals(get_type_hints(item_type).get("type")):
            found[tag] = item_type
    found.pop("message", None)
    return {**found, "reasoning": _Reasoning}


def _literals(hint: object) -> list[str]:
    tags: list[str] = []
    for argument in get_args(hint):
        tags.extend([argument] if isinstance(argument, str) else _literals(argument))
    return tags


def check_items(items: object, param: str) -> list[JsonObject]:
    """Refuse anything that is not a list of well-formed items; return them.

    Raises:
        ApiError: 400 for a wrong type, an unknown `type` or key, a missing key, or an id of the wrong kind.
    """
    if not isinstance(items, list):
        raise ApiError(
            f"Invalid type for '{param}': expected an array of items, but got something else instead.",
            param=param,
            code="invalid_type",
        )
    for number, item in enumerate(items):
        _check_item(item, f"{param}[{number}]")
    return items


def _check_item(item: object, param: str) -> None:
    if not isinstance(item, dict):
        raise ApiError(f"Invalid type for '{param}': expected an object.", param=param, code="invalid_type")
    kind = item_type(item)
    if kind is None:
        raise missing(f"{param}.type")
    if kind == "message":
        if "role" not in item:
            raise missing(f"{param}.role")
        check(_AssistantMessage if item["role"] == "assistant" else _InputMessage, item, param)
    elif kind in item_types():
        check(item_types()[kind], item, param)
    else:
        raise invalid_value(f"{param}.type", kind, ["message", *item_types()])
    if kind == "function_call_output" and not item.get("call_id"):
        raise missing(f"{param}.call_id")
    _check_ids(kind, item, param)


def _check_ids(kind: str, item: JsonObject, param: str) -> None:
    for key in ("id", "call_id"):
        no_longer_than(f"{param}.{key}", item.get(key), MAX_ID_CHARACTERS)
    prefix, given = _ID_PREFIXES.get(kind), item.get("id")
    if prefix is not None and given is not None and not given.startswith(prefix):
        where = f"{param}.id"
        raise ApiError(
            f"Invalid '{where}': '{given}'. Expected an ID that begins with '{prefix}'.",
            param=where,
            code="invalid_value",
        )


def item_type(item: Mapping[str, Any]) -> str | None:
    """The type of an item as the API infers it: `type` may be left out of messages and references."""
    if item.get("type") is not None:
        return str(item["type"])
    if "role" in item:
        return "message"
    return "item_reference" if set(item) <= {"id", "type"} and "id" in item else None


def is_model_made(item: Mapping[str, Any]) -> bool:
    """Whether the model produced this item: an assistant message, a call, or reasoning."""
    kind = item_type(item)
    return kind in _MODEL_MADE or (kind == "message" and item.get("role") == "assistant")


def to_entry(item: Mapping[str, Any]) -> Entry:
    """Reduce an item to who spoke and its words (see `Entry`); unknown kinds are the system's, without words."""
    kind = item_type(item)
    if kind == "message":
        role = str(item["role"])
        speaker: Literal["user", "model", "system"] = "system"
        if role in ("user", "assistant"):
            speaker = "user" if role == "user" else "model"
        return Entry(speaker, content_text(item["content"]))
    if kind == "function_call":
        return Entry("model", f"{item['name']} {item['arguments']}")
    if kind == "function_call_output":
        return Entry("tool", content_text(item["output"]))
    if kind == "reasoning":
        return Entry("model", content_text(item.get("summary")))
    return Entry("system", "")


def duplicate_ids(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The ids that occur more than once, in order of their repetition."""
    seen: set[str] = set()
    repeated: list[str] = []
    for item in items:
        given = item.get("id")
        if isinstance(given, str) and given in seen:
            repeated.append(given)
        elif isinstance(given, str):
            seen.add(given)
    return repeated
