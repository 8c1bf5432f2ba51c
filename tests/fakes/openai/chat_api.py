"""`/v1/chat/completions`, plain and streamed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .asks import Ask, Entry, Speaker, Tool, content_text
from .backend import Answer, Backend, Call, json_answer
from .chat_rules import check_body
from .metering import chat_usage, measure
from .replies import Call as FunctionCall
from .replies import Refusal, Reply, Text
from .response_events import chunks, words
from .wire import ApiError, IdSource, JsonObject, encode

_SPEAKERS: dict[str, Speaker] = {"user": "user", "assistant": "model", "tool": "tool", "function": "tool"}


def create(backend: Backend, call: Call) -> Answer:
    """`POST /v1/chat/completions`."""
    body = call.body
    check_body(body)
    backend.require_model(body["model"])
    ask = _ask(body)
    reply = backend.reply(ask)
    usage = chat_usage(measure(ask, reply))
    head: JsonObject = {
        "id": backend.ids.new("chatcmpl").replace("_", "-"),
        "created": int(time.time()),
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
    }
    message = _message(reply, backend.ids)
    if body.get("stream"):
        return Answer(_frames(body, head, message, reply, usage), streamed=True)
    if reply.status == "failed":
        raise ApiError(reply.error_message, status=500, error_type="server_error", code=reply.error_code)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
    return json_answer({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


def _ask(body: JsonObject) -> Ask:
    wanted = body.get("response_format") or {}
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        choice = choice["function"]["name"] if choice["type"] == "function" else "auto"
    return Ask(
        model=body["model"],
        instructions="",
        entries=tuple(_entry(message) for message in body["messages"]),
        tools=tuple(
            Tool(tool["function"]["name"], tool["function"].get("parameters") or {})
            for tool in body.get("tools") or []
            if "function" in tool
        ),
        tool_choice=choice,
        parallel=body.get("parallel_tool_calls") is not False,
        schema=wanted["json_schema"].get("schema") if wanted.get("type") == "json_schema" else None,
        json_object=wanted.get("type") == "json_object",
        max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        reasons=body.get("reasoning_effort") not in (None, "none"),
    )


def _entry(message: JsonObject) -> Entry:
    text = content_text(message.get("content"))
    for call in message.get("tool_calls") or []:
        if "function" in call:
            text = f"{text} {call['function']['name']} {call['function']['arguments']}".strip()
    return Entry(_SPEAKERS.get(message["role"], "system"), text)


def _message(reply: Reply, ids: IdSource) -> JsonObject:
    texts = [part.text for part in reply.parts if isinstance(part, Text)]
    refusals = [part.text for part in reply.parts if isinstance(part, Refusal)]
    calls = [
        {
            "id": part.call_id or ids.new("call"),
            "type": "function",
            "function": {"name": part.name, "arguments": part.wire_arguments},
        }
        for part in reply.parts
        if isinstance(part, FunctionCall)
    ]
    message: JsonObject = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
        "annotations": [],
    }
    return {**message, "tool_calls": calls} if calls else message


def _finish(reply: Reply) -> str:
    if reply.status == "incomplete":
        return "length" if reply.reason == "max_output_tokens" else "content_filter"
    return "tool_calls" if any(isinstance(part, FunctionCall) for part in reply.parts) else "stop"


def _frames(body: JsonObject, head: JsonObject, message: JsonObject, reply: Reply, usage: JsonObject) -> list[bytes]:
    """All chunks: the role first, the finish reason last, the usage after it only when asked for, then `[DONE]`."""
    counted = bool((body.get("stream_options") or {}).get("include_usage"))
    deltas = list(_deltas(message))
    head = {**head, "object": "chat.completion.chunk"}
    if counted:
        head["usage"] = None
    found = [_chunk(head, delta, None) for delta in deltas]
    if reply.status == "failed":
        error = ApiError(reply.error_message, error_type="server_error", code=reply.error_code)
        return [_sse(payload) for payload in [*found, error.envelope()]]
    found.append(_chunk(head, {}, _finish(reply)))
    if counted:
        found.append({**head, "choices": [], "usage": usage})
    return [*(_sse(payload) for payload in found), b"data: [DONE]\n\n"]


def _deltas(message: JsonObject) -> Iterator[JsonObject]:
    calls = message.get("tool_calls", [])
    silent = message["content"] is None
    yield {"role": "assistant", "content": None if silent else "", "refusal": None}
    for word in words(message["content"] or ""):
        yield {"content": word}
    for word in words(message["refusal"] or ""):
        yield {"refusal": word}
    for index, call in enumerate(calls):
        yield {"tool_calls": [{"index": index, **call, "function": {**call["function"], "arguments": ""}}]}
        for piece in chunks(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _chunk(head: JsonObject, delta: JsonObject, finish: str | None) -> JsonObject:
    return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}


def _sse(payload: JsonObject) -> bytes:
    return b"data: " + encode(payload) + b"\n\n"
