"""Rules on the body of `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from .json_schemas import check_strict
from .response_rules import check_metadata, check_tool_name
from .schemas import at_least, at_most, check, missing, parameter_types
from .wire import ApiError, JsonObject, unsupported


@cache
def _parameters() -> dict[str, object]:
    types = dict(parameter_types(CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming))
    return {**types, "stream": bool | None}


def check_body(body: JsonObject) -> None:
    """Refuse a body that the API would refuse; only the model's existence is left to the caller.

    Raises:
        ApiError: 400 with the parameter, and the code where the API gives one.
    """
    for name in body:
        if name not in _parameters():
            raise ApiError(f"Unrecognized request argument supplied: {name}")
    for name in ("model", "messages"):
        if name not in body:
            raise missing(name)
    for name, value in body.items():
        check(_parameters()[name], value, name)
    _check_ranges(body)
    check_metadata(body.get("metadata"))
    _check_tools(body)
    _check_format(body)
    if not body["messages"]:
        raise ApiError(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    _check_tool_messages(body["messages"])
    if body.get("stream_options") and not body.get("stream"):
        raise ApiError(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )


def _check_ranges(body: JsonObject) -> None:
    for name, least, most in (
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
        ("top_logprobs", 0, 20),
    ):
        at_least(name, body.get(name), least)
        at_most(name, body.get(name), most)
    for name in ("max_tokens", "max_completion_tokens"):
        at_least(name, body.get(name), 1)
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise ApiError("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    if body.get("n") not in (None, 1):
        raise unsupported("`n` other than 1", "n")


def _check_tools(body: JsonObject) -> None:
    tools = body.get("tools")
    if tools is None:
        if body.get("tool_choice") not in (None, "none"):
            raise ApiError("'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
        if body.get("parallel_tool_calls") is not None:
            raise ApiError(
                "'parallel_tool_calls' is only allowed when 'tools' are specified.", param="parallel_tool_calls"
            )
        return
    if not tools:
        raise ApiError(
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="tools",
            code="empty_array",
        )
    for number, tool in enumerate(tools):
        function = tool.get("function")
        if function is None:
            continue
        check_tool_name(function["name"], f"tools[{number}].function.name")
        if function.get("strict"):
            check_strict(
                function.get("parameters"),
                what=f"function '{function['name']}'",
                param=f"tools[{number}].function.parameters",
                code="invalid_function_parameters",
            )
    choice = body.get("tool_choice")
    names = [tool["function"]["name"] for tool in tools if "function" in tool]
    if isinstance(choice, dict) and choice["type"] == "function" and choice["function"]["name"] not in names:
        raise ApiError("Invalid value for 'tool_choice': the function name is not in 'tools'.", param="tool_choice")


def _check_format(body: JsonObject) -> None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        described = wanted["json_schema"]
        check_tool_name(described["name"], "response_format.json_schema.name")
        if described.get("strict"):
            check_strict(
                described.get("schema"),
                what=f"response_format '{described['name']}'",
                param="response_format",
                code=None,
            )
    if wanted.get("type") == "json_object" and "json" not in str(body["messages"]).lower():
        raise ApiError(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            param="messages",
        )


def _check_tool_messages(messages: Sequence[JsonObject]) -> None:
    """Each run of tool messages answers exactly the calls of the assistant message right before it."""
    waiting: list[str] = []
    asked: set[str] = set()
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in asked:
                raise ApiError(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                    "'tool_calls'.",
                    param=f"messages.[{number}].role",
                )
            waiting = [call_id for call_id in waiting if call_id != message["tool_call_id"]]
            continue
        _check_all_answered(waiting, number)
        waiting = [call["id"] for call in message.get("tool_calls") or []]
        asked = set(waiting)
        if message["role"] == "assistant" and not waiting and message.get("content") is None:
            _check_says_something(message, number)
    _check_all_answered(waiting, len(messages))


def _check_all_answered(waiting: Sequence[str], number: int) -> None:
    if waiting:
        raise ApiError(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
            param=f"messages.[{number}].role",
        )


def _check_says_something(message: JsonObject, number: int) -> None:
    if not any(message.get(name) is not None for name in ("refusal", "audio", "function_call")):
        raise ApiError(
            "Invalid value for 'content': expected a string, got null.", param=f"messages.[{number}].content"
        )
