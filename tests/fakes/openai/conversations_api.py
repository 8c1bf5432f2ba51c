"""`/v1/conversations` and their items."""

from __future__ import annotations

import time
from typing import Any

from .backend import Answer, Backend, Call, json_answer
from .context_rules import refuse_input
from .input_items import check_items, duplicate_ids, item_type
from .response_rules import check_metadata
from .schemas import at_least, at_most, check, invalid_value, missing
from .stores import Conversation
from .wire import ApiError, JsonObject

_MOST_ITEMS = 20


def create(backend: Backend, call: Call) -> Answer:
    """`POST /v1/conversations`, with up to 20 first items."""
    _known(call.body, "items", "metadata")
    metadata = _metadata(call.body)
    conversation = Conversation(backend.ids.new("conv"), int(time.time()), metadata)
    _add(backend, conversation, call.body.get("items") or [])
    backend.stores.conversations[conversation.id] = conversation
    return json_answer(conversation.public())


def retrieve(backend: Backend, call: Call) -> Answer:
    """`GET /v1/conversations/{id}`."""
    return json_answer(_conversation(backend, call).public())


def update(backend: Backend, call: Call) -> Answer:
    """`POST /v1/conversations/{id}`: replace the metadata."""
    conversation = _conversation(backend, call)
    _known(call.body, "metadata")
    if "metadata" not in call.body:
        raise missing("metadata")
    conversation.metadata = _metadata(call.body)
    return json_answer(conversation.public())


def delete(backend: Backend, call: Call) -> Answer:
    """`DELETE /v1/conversations/{id}`. The items can still be referred to, as in the real API they are not deleted."""
    conversation = _conversation(backend, call)
    del backend.stores.conversations[conversation.id]
    return json_answer({"id": conversation.id, "object": "conversation.deleted", "deleted": True})


def add_items(backend: Backend, call: Call) -> Answer:
    """`POST /v1/conversations/{id}/items`: all of them or none; answers with the new items only."""
    conversation = _conversation(backend, call)
    _known(call.body, "items")
    if "items" not in call.body:
        raise missing("items")
    return json_answer(_page(_add(backend, conversation, call.body["items"]), has_more=False))


def list_items(backend: Backend, call: Call) -> Answer:
    """`GET /v1/conversations/{id}/items?limit=&after=&order=`: 20 of them, newest first, unless told otherwise."""
    conversation = _conversation(backend, call)
    limit = _limit(call.query.get("limit", "20"))
    order = call.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid_value("order", order, ("asc", "desc"))
    items = conversation.items if order == "asc" else conversation.items[::-1]
    after = call.query.get("after")
    if after is not None:
        items = items[items.index(_item(conversation, after)) + 1 :]
    return json_answer(_page(items[:limit], has_more=len(items) > limit))


def retrieve_item(backend: Backend, call: Call) -> Answer:
    """`GET /v1/conversations/{id}/items/{item_id}`."""
    return json_answer(_item(_conversation(backend, call), call.path["item_id"]))


def delete_item(backend: Backend, call: Call) -> Answer:
    """`DELETE /v1/conversations/{id}/items/{item_id}`: answers with the conversation."""
    conversation = _conversation(backend, call)
    item = _item(conversation, call.path["item_id"])
    conversation.items.remove(item)
    backend.stores.forget(item["id"])
    return json_answer(conversation.public())


def _conversation(backend: Backend, call: Call) -> Conversation:
    return backend.stores.conversation(call.path["conversation_id"])


def _item(conversation: Conversation, item_id: str) -> JsonObject:
    for item in conversation.items:
        if item["id"] == item_id:
            return item
    raise ApiError(f"Item with id '{item_id}' not found in conversation '{conversation.id}'.", status=404)


def _known(body: JsonObject, *names: str) -> None:
    for name in body:
        if name not in names:
            raise ApiError(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def _metadata(body: JsonObject) -> dict[str, str]:
    check(dict[str, str] | None, body.get("metadata"), "metadata")
    check_metadata(body.get("metadata"))
    return dict(body.get("metadata") or {})


def _limit(given: str) -> int:
    try:
        limit = int(given)
    except ValueError:
        raise ApiError(
            f"Invalid type for 'limit': expected an integer, but got '{given}'.", param="limit", code="invalid_type"
        ) from None
    at_least("limit", limit, 1)
    at_most("limit", limit, 100)
    return limit


def _add(backend: Backend, conversation: Conversation, given: Any) -> list[JsonObject]:
    items = check_items(given, "items")
    if len(items) > _MOST_ITEMS:
        raise ApiError(
            f"Invalid 'items': array too long. Expected an array with maximum length {_MOST_ITEMS}, but got an array "
            f"with length {len(items)} instead.",
            param="items",
            code="array_above_max_length",
        )
    for item in items:
        nameless = not item.get("id") and not item.get("encrypted_content")
        # Reported of the real API (openai-agents-python issue 1709): reasoning that says nothing is no item.
        if item_type(item) == "reasoning" and nameless:
            raise ApiError("Invalid item", param="item", code="invalid_item")
    for repeated in duplicate_ids([*conversation.items, *items]):
        raise refuse_input(
            f"Duplicate item found with id {repeated}. Remove duplicate items from your input and try again."
        )
    new = backend.stores.stored_form(items)
    conversation.items.extend(new)
    backend.stores.remember(new)
    return new


def _page(items: list[JsonObject], *, has_more: bool) -> JsonObject:
    """An empty page has empty ids, not null: the published type says string."""
    first, last = (items[0]["id"], items[-1]["id"]) if items else ("", "")
    return {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": has_more}
