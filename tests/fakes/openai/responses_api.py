"""`/v1/responses`: create, plain or streamed, and retrieve."""

from __future__ import annotations

from dataclasses import dataclass

from .asks import Ask, Tool
from .backend import Answer, Backend, Call, json_answer
from .context_rules import check_context, check_reasoning_kept, refuse_input
from .input_items import check_items, to_entry
from .metering import measure
from .response_events import frames
from .response_objects import closed, opened, output_items
from .response_rules import check_body, check_mentions_json
from .stores import Conversation, StoredResponse
from .wire import ApiError, JsonObject


@dataclass(frozen=True)
class _Context:
    """What the model reads: `history` (a conversation or the previous response), then `given` (this input)."""

    history: list[JsonObject]
    given: list[JsonObject]
    conversation: Conversation | None

    @property
    def items(self) -> list[JsonObject]:
        return [*self.history, *self.given]


def create(backend: Backend, call: Call) -> Answer:
    """`POST /v1/responses`. The conversation is locked until the answer ends; its items are added at completion."""
    body = call.body
    check_body(body)
    backend.require_model(body["model"])
    given = _input(body)
    context = _context(backend, body, given)
    check_context(context.items)
    check_reasoning_kept(context.items, backend.stores.needed_reasoning)
    ask = _ask(body, context)
    check_mentions_json(body, " ".join([ask.instructions, *(entry.text for entry in ask.entries)]))

    reply = backend.reply(ask)
    conversation = context.conversation
    start = opened(body, backend.ids.new("resp"), None if conversation is None else conversation.id)
    output = output_items(reply, body, backend.ids)
    end = closed(start, reply, output, measure(ask, reply))

    def complete() -> None:
        _keep(backend, body, context, end)

    def release() -> None:
        if conversation is not None:
            conversation.busy = False

    if conversation is not None:
        conversation.busy = True
    if body.get("stream"):
        return Answer(frames(start, end), streamed=True, on_complete=complete, on_end=release)
    return json_answer(end, on_complete=complete, on_end=release)


def retrieve(backend: Backend, call: Call) -> Answer:
    """`GET /v1/responses/{id}`."""
    return json_answer(backend.stores.response(call.path["response_id"]).payload)


def _input(body: JsonObject) -> list[JsonObject]:
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return check_items([] if given is None else given, "input")


def _context(backend: Backend, body: JsonObject, given: list[JsonObject]) -> _Context:
    stores = backend.stores
    items = stores.resolved(given)
    wanted = body.get("conversation")
    if wanted is not None:
        conversation = stores.conversation(wanted if isinstance(wanted, str) else wanted["id"], param="conversation")
        if conversation.busy:
            raise ApiError(
                "Another process is currently operating on this conversation. Please retry in a few seconds.",
                param="conversation",
                code="conversation_locked",
            )
        return _Context(list(conversation.items), items, conversation)
    if body.get("previous_response_id") is not None:
        return _Context(stores.previous_context(body["previous_response_id"]), items, None)
    if not items:
        raise refuse_input("Invalid 'input': empty array. Expected an array with at least one item.")
    return _Context([], items, None)


def _ask(body: JsonObject, context: _Context) -> Ask:
    wanted = (body.get("text") or {}).get("format") or {}
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        choice = choice["name"] if choice.get("type") == "function" else "auto"
    effort = (body.get("reasoning") or {}).get("effort")
    return Ask(
        model=body["model"],
        instructions=body.get("instructions") or "",
        entries=tuple(to_entry(item) for item in context.items),
        tools=tuple(
            Tool(tool["name"], tool.get("parameters") or {})
            for tool in body.get("tools") or []
            if tool["type"] == "function"
        ),
        tool_choice=choice,
        parallel=body.get("parallel_tool_calls") is not False,
        schema=wanted["schema"] if wanted.get("type") == "json_schema" else None,
        json_object=wanted.get("type") == "json_object",
        max_output_tokens=body.get("max_output_tokens"),
        reasons=effort not in (None, "none"),
    )


def _keep(backend: Backend, body: JsonObject, context: _Context, end: JsonObject) -> None:
    """Store the response, and add its items to the conversation; a failed response adds nothing."""
    given = backend.stores.stored_form(context.given)
    new = [*given, *end["output"]]
    if context.conversation is not None and end["status"] != "failed":
        context.conversation.items.extend(new)
        backend.stores.remember(new)
    if body.get("store") is not False:
        backend.stores.remember(new)
        backend.stores.responses[end["id"]] = StoredResponse(end, [*context.history, *new])
