"""Rules on the body of `POST /v1/responses` that need no stored state."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)

from .json_schemas import check_strict
from .schemas import at_least, at_most, check, missing, no_longer_than, parameter_types
from .wire import ApiError, JsonObject, unsupported

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_CONTEXT_SOURCES = ("input", "previous_response_id", "prompt", "conversation")


@cache
def _parameters() -> dict[str, object]:
    types = dict(parameter_types(ResponseCreateParamsNonStreaming, ResponseCreateParamsStreaming))
    # The second type narrows `stream` to true; the wire takes both.
    return {**types, "stream": bool | None}


def check_body(body: JsonObject) -> None:
    """Refuse a body that breaks a rule on its parameters; input items are checked by `input_items`.

    Raises:
        ApiError: 400 with the parameter and one of unknown_parameter, invalid_type, invalid_value, ...
    """
    for name in body:
        if name not in _parameters():
            raise ApiError(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    if "model" not in body:
        raise missing("model")
    for name, value in body.items():
        if name != "input":
            check(_parameters()[name], value, name)
    _check_ranges(body)
    check_metadata(body.get("metadata"))
    _check_sources(body)
    check_tools(body.get("tools") or [])
    _check_tool_choice(body)
    _check_format(body)
    if body.get("stream_options") and not body.get("stream"):
        raise ApiError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )
    for name in ("background", "prompt"):
        if body.get(name):
            raise unsupported(f"`{name}`", name)


def _check_ranges(body: JsonObject) -> None:
    at_least("max_output_tokens", body.get("max_output_tokens"), 16)
    at_least("max_tool_calls", body.get("max_tool_calls"), 1)
    for name, most in (("temperature", 2.0), ("top_p", 1.0), ("top_logprobs", 20)):
        at_least(name, body.get(name), 0 if most == 20 else 0.0)
        at_most(name, body.get(name), most)
    no_longer_than("safety_identifier", body.get("safety_identifier"), 64)
    no_longer_than("prompt_cache_key", body.get("prompt_cache_key"), 64)


def check_metadata(metadata: Any) -> None:
    """Refuse metadata of more than 16 pairs, or with a key over 64 or a value over 512 characters."""
    if not metadata:
        return
    if len(metadata) > 16:
        raise ApiError(
            f"Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(metadata)} properties instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    for key, value in metadata.items():
        no_longer_than("metadata", key, 64)
        no_longer_than(f"metadata.{key}", value, 512)


def _check_sources(body: JsonObject) -> None:
    if body.get("conversation") is not None and body.get("previous_response_id") is not None:
        raise ApiError(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Ensure you are only providing "
            "one of: 'previous_response_id' or 'conversation'.",
            code="mutually_exclusive_parameters",
        )
    if not any(body.get(name) for name in _CONTEXT_SOURCES):
        raise ApiError(
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.",
            param="input",
            code="missing_required_parameter",
        )


def check_tools(tools: list[JsonObject]) -> None:
    """Refuse functions with a bad name, or strict ones whose parameters strict mode does not take."""
    for number, tool in enumerate(tools):
        if tool["type"] != "function":
            continue
        check_tool_name(tool["name"], f"tools[{number}].name")
        if tool.get("strict"):
            check_strict(
                tool.get("parameters"),
                what=f"function '{tool['name']}'",
                param=f"tools[{number}].parameters",
                code="invalid_function_parameters",
            )


def check_tool_name(name: str, param: str) -> None:
    """Refuse a function name outside `^[a-zA-Z0-9_-]+$`."""
    if not _TOOL_NAME.fullmatch(name):
        raise ApiError(
            f"Invalid '{param}': string does not match pattern. Expected a string that matches the pattern "
            "'^[a-zA-Z0-9_-]+$'.",
            param=param,
            code="invalid_value",
        )


def _check_tool_choice(body: JsonObject) -> None:
    choice = body.get("tool_choice")
    names = [tool.get("name") for tool in body.get("tools") or []]
    if isinstance(choice, dict) and choice.get("type") == "function" and choice["name"] not in names:
        raise ApiError(f"Tool choice '{choice['name']}' not found in 'tools' parameter.", param="tool_choice")
    if choice == "required" and not names:
        raise ApiError("Tool choice 'required' must be specified with 'tools' parameter.", param="tool_choice")


def _check_format(body: JsonObject) -> None:
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        check_tool_name(wanted["name"], "text.format.name")
        if wanted.get("strict"):
            check_strict(
                wanted["schema"],
                what=f"response_format '{wanted['name']}'",
                param="text.format.schema",
                code="invalid_json_schema",
            )


def check_mentions_json(body: JsonObject, words: str) -> None:
    """Refuse `json_object` output unless the word JSON stands somewhere in the context (`words`)."""
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_object" and "json" not in words.lower():
        raise ApiError(
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
            "'json_object'.",
            param="input",
        )
