"""Response objects and their output items, in the shape that the strict client checks."""

from __future__ import annotations

import time
from typing import Any

from .metering import responses_usage
from .replies import Call, Part, Reasoning, Refusal, Reply, Usage
from .wire import IdSource, JsonObject

_ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, with what it says when the request is silent or null."""


def opened(body: JsonObject, response_id: str, conversation_id: str | None) -> JsonObject:
    """A response in progress: everything but its output, usage and end."""
    echoed = {name: default if body.get(name) is None else body[name] for name, default in _ECHOED.items()}
    if echoed["service_tier"] == "auto":
        echoed["service_tier"] = "default"
    reasoning = body.get("reasoning") or {}
    text = body.get("text") or {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": [],
        "usage": None,
        "conversation": None if conversation_id is None else {"id": conversation_id},
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "text": {"verbosity": "medium", **text, "format": text.get("format") or {"type": "text"}},
        "tools": [_tool(tool) for tool in body.get("tools") or []],
        **echoed,
    }


def _tool(tool: JsonObject) -> JsonObject:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": True, **tool}


def closed(response: JsonObject, reply: Reply, output: list[JsonObject], usage: Usage) -> JsonObject:
    """The response at its end: completed, incomplete or failed."""
    end: JsonObject = {"status": reply.status, "output": output}
    match reply.status:
        case "completed":
            end |= {"usage": responses_usage(usage), "completed_at": int(time.time())}
        case "incomplete":
            end |= {"usage": responses_usage(usage), "incomplete_details": {"reason": reply.reason}}
        case "failed":
            end["error"] = {"code": reply.error_code, "message": reply.error_message}
    return {**response, **end}


def output_items(reply: Reply, body: JsonObject, ids: IdSource) -> list[JsonObject]:
    """The output of a reply; of an incomplete one the last item is incomplete."""
    items = [_output_item(part, body, ids) for part in reply.parts]
    if reply.status != "completed" and items and "status" in items[-1]:
        items[-1]["status"] = "incomplete"
    return items


def _output_item(part: Part, body: JsonObject, ids: IdSource) -> JsonObject:
    match part:
        case Call():
            return {
                "id": ids.new("fc"),
                "type": "function_call",
                "status": "completed",
                "call_id": part.call_id or ids.new("call"),
                "name": part.name,
                "arguments": part.wire_arguments,
            }
        case Reasoning():
            return _reasoning_item(part, body, ids)
        case _:
            return {
                "id": ids.new("msg"),
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [content_part(part.text, refusal=isinstance(part, Refusal))],
            }


def _reasoning_item(part: Reasoning, body: JsonObject, ids: IdSource) -> JsonObject:
    """A summary and encrypted content are shown only to those who asked, as by the real API."""
    wanted = (body.get("reasoning") or {}).get("summary")
    item: JsonObject = {"id": ids.new("rs"), "type": "reasoning", "summary": []}
    if wanted:
        item["summary"] = [{"type": "summary_text", "text": part.summary}]
    if "reasoning.encrypted_content" in (body.get("include") or []):
        item["encrypted_content"] = f"encrypted:{item['id']}"
    return item


def content_part(text: str, *, refusal: bool) -> JsonObject:
    """The one content part of an assistant message."""
    if refusal:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
