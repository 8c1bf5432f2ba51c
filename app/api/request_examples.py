"""Examples of request bodies, for the API's description: what its page fills in, and what a client can copy."""

from collections.abc import Mapping
from typing import Any, Final

_SESSION: Final = "sess_0190f5e2a1b27c3d8e4f5a6b7c8d9e0f"
_CALL: Final = "call_1"
_QUESTION: Final = "What is the weather in Paris?"
_USER: Final = {"role": "user", "content": _QUESTION}

REQUEST_EXAMPLES: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    ("post", "/v1/responses"): {
        "An answer": {"model": "demo", "input": _QUESTION},
        "As a stream": {"model": "demo", "input": _QUESTION, "stream": True},
        "In the background": {"model": "demo", "input": _QUESTION, "background": True},
        "A form for the answer": {
            "model": "demo",
            "input": _QUESTION,
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "weather",
                    "strict": True,
                    "schema": {
                        "type": "object",
                        "properties": {"celsius": {"type": "number"}},
                        "required": ["celsius"],
                        "additionalProperties": False,
                    },
                }
            },
        },
        "A function of the caller's": {
            "model": "demo",
            "input": "Open the door.",
            "tools": [{"type": "function", "name": "open_door", "parameters": {"type": "object", "properties": {}}}],
        },
    },
    ("post", "/v1/chat/completions"): {
        "An answer": {"model": "demo", "messages": [_USER]},
        "As a stream": {
            "model": "demo",
            "messages": [_USER],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "Kept": {"model": "demo", "messages": [_USER], "store": True, "metadata": {"ticket": "4711"}},
    },
    ("post", "/v1/chat/completions/{completionId}"): {"Other metadata": {"metadata": {"ticket": "4712"}}},
    ("post", "/v1/conversations"): {
        "With a message": {
            "items": [{"type": "message", "role": "user", "content": "My name is Ada."}],
            "metadata": {"ticket": "4711"},
        },
        "Empty": {},
    },
    ("post", "/v1/conversations/{conversationId}"): {
        "Another title": {"title": "Weather in Paris"},
        "Other metadata": {"metadata": {"ticket": "4712"}},
    },
    ("post", "/v1/conversations/{conversationId}/items"): {
        "A message": {"items": [{"type": "message", "role": "user", "content": "My name is Ada."}]}
    },
    ("post", "/v1/conversations/{conversationId}/fork"): {"At its end": {}},
    ("post", "/v1/conversations/{conversationId}/share"): {"For a day": {"expires_in_s": 86400}},
    ("post", "/v1/organization/projects"): {"A project": {"name": "Support"}},
    ("post", "/v1/organization/projects/{project_id}"): {"Another name": {"name": "Customer support"}},
    ("post", "/v1/organization/projects/{project_id}/api_keys"): {
        "For an application": {"name": "web shop", "scopes": ["read", "write"], "expires_in_seconds": 7776000}
    },
    ("post", "/v1/organization/admin_api_keys"): {
        "For an operator": {"name": "operations", "scopes": ["read", "usage", "admin"]},
        "For one user and agent": {"name": "Ada's phone", "user_id": "ada", "agents": ["demo"]},
    },
    ("post", "/v1/webhook_endpoints"): {
        "Of responses": {
            "name": "orders",
            "url": "https://example.com/hook",
            "event_types": ["response.completed", "response.failed"],
        },
        "Of approvals": {
            "name": "desk",
            "url": "https://example.com/desk",
            "event_types": ["approval.requested", "run.failed"],
        },
    },
    ("post", "/v1/webhook_endpoints/{webhook_endpoint_id}"): {
        "Another address": {"url": "https://example.com/new"},
        "Other types": {"event_types": ["session.completed"]},
    },
    ("post", "/v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret"): {
        "With a day of both": {"keep_old_secret_active_for_24_hours": True},
        "At once": {},
    },
    ("post", "/v1/webhook_endpoints/{webhook_endpoint_id}/test"): {"A response": {"event_type": "response.completed"}},
    ("post", "/v1/events"): {
        "A call": {
            "event_type": "session.completed",
            "session_id": "chatcmpl-1",
            "user_id": "ada",
            "usage": {"input_tokens": 12, "output_tokens": 30, "total_tokens": 42, "model": "gpt-5"},
            "outcome": {"status": "success"},
        },
        "Of a web page": {
            "session_id": "web-1",
            "session_type": "chat",
            "duration_ms": 93000,
            "message_count": 6,
            "outcome": {"status": "user_terminated"},
        },
        "Several": {"events": [{"session_id": "job-1", "session_type": "autonomous"}, {"session_id": "job-2"}]},
    },
    ("post", "/v1/events/tokens"): {
        "For a page": {"expires_in_s": 900},
        "For one session": {"user_id": "ada", "session_id": "web-1"},
    },
    ("post", "/api/session"): {"Of the default agent": {}, "Of one agent": {"agent": "demo"}},
    ("post", "/api/chat"): {
        "A message": {"sessionId": _SESSION, "message": _QUESTION},
        "With limits": {"sessionId": _SESSION, "message": _QUESTION, "options": {"maxTurns": 5, "timeoutS": 60}},
    },
    ("post", "/api/chat/stream"): {"A message": {"sessionId": _SESSION, "message": _QUESTION}},
    ("post", "/api/runs"): {"A message": {"sessionId": _SESSION, "message": _QUESTION}},
    ("post", "/api/runs/{runId}/approvals"): {
        "Allow": {"decisions": [{"callId": _CALL, "approve": True}]},
        "Refuse": {"decisions": [{"callId": _CALL, "approve": False, "message": "Not from this city."}]},
    },
    ("post", "/api/chat/ai"): {
        "A message": {
            "id": "chat-1",
            "messages": [{"id": "message-1", "role": "user", "parts": [{"type": "text", "text": _QUESTION}]}],
        }
    },
    ("post", "/agui/{agent}"): {
        "A message": {
            "threadId": "thread-1",
            "runId": "run-1",
            "messages": [{"id": "message-1", "role": "user", "content": _QUESTION}],
            "tools": [],
            "context": [],
            "state": {},
            "forwardedProps": {},
        }
    },
}
"""By method and path, each with its name."""
