"""Chat completions: an agent's run as the Chat Completions API tells it, plain and streamed."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, cast

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.background import BackgroundTask

from app.api.dependencies import Running, Streaming
from app.api.errors import ErrorEnvelope, HttpError, failed_run_reply
from app.api.json_replies import JsonReply
from app.api.openai.access import Access
from app.api.openai.chat_answers import ChatAnswer, waits_for_approval
from app.api.openai.chat_chunks import ChatChunks
from app.api.openai.chat_replies import completion
from app.api.openai.chat_requests import CONVERSATION_KEY, AskedChat, asked_chat, checked_metadata, request_schema
from app.api.openai.chat_runs import answered, forgotten, started, told_batches
from app.api.openai.chat_schemas import ChatCompletion, ChatCompletionDeleted, ChatMessageList
from app.api.openai.chat_stored import deleted, described, found
from app.api.openai.response_faults import missing, wrong_type, wrong_value
from app.api.openai.response_input_items import page_of
from app.api.openai.upstream import model_not_found, upstream_reply
from app.api.openapi import EVENT_STREAM, content, failures, replies
from app.api.routes.chat import REPLAYED, IdempotencyKey
from app.api.sse import EventStreams
from app.bootstrap import Container
from app.domain.errors import UnknownAgent
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunStatus
from app.services.runs import RunHandle

router = APIRouter(prefix="/v1/chat/completions", tags=["chat completions"])

_ERRORS: Final = (400, 401, 403, 404, 409, 413, 429, 500, 502, 503, 504)
_COMPLETION: Final[dict[str, Any]] = {
    "description": "The completion; with `stream`, its chunks, and `[DONE]` after the last one.",
    "headers": {
        "x-conversation-id": {
            "schema": {"type": "string"},
            "description": "The conversation that it is kept in; a call that is not kept has none.",
        },
        "x-run-id": {"schema": {"type": "string"}, "description": "The run of the first choice."},
    },
    "content": {
        **content(ChatCompletion),
        **EVENT_STREAM,
    },
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": request_schema(),
            }
        },
    }
}

Id = Annotated[str, Path(alias="completionId")]

ConversationId = Annotated[
    str | None,
    Header(alias="X-Conversation-Id", description="Joins the call to a conversation, as metadata.conversation_id."),
]


class ChatCompletionUpdate(BaseModel):
    """What of a completion can be changed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    metadata: dict[str, Any] | None


@router.post(
    "",
    summary="Create a chat completion",
    responses={200: _COMPLETION, **failures(*_ERRORS)},
    response_class=JsonReply,
    response_model=None,
    openapi_extra=_BODY,
)
async def create_chat_completion(
    request: Request,
    access: Access,
    container: Running,
    streams: Streaming,
    idempotency_key: IdempotencyKey = None,
    conversation_id: ConversationId = None,
) -> Response:
    """Run an agent, whose key is the `model`; every call is a conversation of its own that is removed after it.

    With `store` it is kept. One that is joined to a conversation adds what follows the last answer of its messages.
    A client that leaves stops nothing: the run goes on to its end.
    """
    raw = await request.body()
    body = _object(raw)
    model = body.get("model")
    if model is None:
        raise missing("model")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    try:
        agent = container.provider.agent(model)
    except UnknownAgent:
        return await upstream_reply(request, raw, model, access, path="/chat/completions")
    if not access.may_use_agent(agent.key):
        raise model_not_found(model)
    endpoint = container.settings.openai.api
    asked = asked_chat(body, agent, endpoint=endpoint, joined=conversation_id)
    handles = await started(container, access.caller, asked, idempotency_key)
    answers = [ChatAnswer(asked.tool_names, structured=asked.structured) for _ in handles]
    headers = _headers(asked, handles)
    if asked.stream:
        return _streamed(container, streams, access.caller, asked, handles, answers, headers)
    reply = await _plain(container, access.caller, asked, handles, answers, headers)
    if not asked.kept:
        reply.background = BackgroundTask(forgotten, container, access.caller, handles)
    return reply


@router.get(
    "/{completionId}",
    summary="Retrieve a chat completion",
    responses=replies(ChatCompletion, 401, 403, 404, 503, description="As it was answered."),
    response_class=JsonReply,
    response_model=None,
)
async def retrieve_chat_completion(completion_id: Id, access: Access, container: Running) -> JsonReply:
    """Tell a completion again that was kept (`store`, or joined to a conversation)."""
    return JsonReply((await found(container, access.caller, completion_id)).object())


@router.post(
    "/{completionId}",
    summary="Update a chat completion",
    responses=replies(ChatCompletion, 400, 401, 403, 404, 503, description="As it is now."),
    response_class=JsonReply,
    response_model=None,
)
async def update_chat_completion(
    body: ChatCompletionUpdate, completion_id: Id, access: Access, container: Running
) -> JsonReply:
    """Put other metadata in the place of those of a completion that was kept."""
    metadata = checked_metadata(body.metadata or {})
    if CONVERSATION_KEY in metadata:
        raise wrong_value(f"metadata.{CONVERSATION_KEY}", "a completion stays in its conversation.")
    chat = await found(container, access.caller, completion_id)
    return JsonReply((await described(container, access.caller, chat, metadata)).object())


@router.delete(
    "/{completionId}",
    summary="Delete a chat completion",
    responses=replies(ChatCompletionDeleted, 401, 403, 404, 503, description="It is gone."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_chat_completion(completion_id: Id, access: Access, container: Running) -> JsonReply:
    """Delete a completion that was kept; what it added to a conversation with others in it stays there."""
    await deleted(container, access.caller, await found(container, access.caller, completion_id))
    return JsonReply({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})


@router.get(
    "/{completionId}/messages",
    summary="List the messages of a chat completion",
    responses=replies(ChatMessageList, 400, 401, 403, 404, 503, description="A page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_chat_messages(
    completion_id: Id,
    access: Access,
    container: Running,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "asc",
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> JsonReply:
    """List the messages that were new with a completion that was kept."""
    messages = (await found(container, access.caller, completion_id)).messages()
    return JsonReply(page_of(messages, limit, order, after))


async def _plain(
    container: Container,
    caller: Caller,
    asked: AskedChat,
    handles: Sequence[RunHandle],
    answers: list[ChatAnswer],
    headers: Mapping[str, str],
) -> JsonReply:
    await answered(container, caller, handles, answers)
    for handle, answer in zip(handles, answers, strict=True):
        if answer.end is None or answer.end.error is not None:
            result = await handle.result()
            if result.status is RunStatus.WAITING:
                body = waits_for_approval(handle.run_id, len(result.approvals)).body
                return JsonReply(ErrorEnvelope(body, handle.run_id, handle.conversation_id), 409, headers)
            return failed_run_reply(result)
    return JsonReply(completion(handles[0].run_id, asked.model, answers, asked.stops), 200, headers)


def _streamed(
    container: Container,
    streams: EventStreams,
    caller: Caller,
    asked: AskedChat,
    handles: Sequence[RunHandle],
    answers: list[ChatAnswer],
    headers: Mapping[str, str],
) -> Response:
    first = handles[0].run_id
    chunks = ChatChunks(first, asked.model, answers, asked.stops, include_usage=asked.include_usage)
    stream = streams.open(first, told_batches(container, caller, handles, chunks), headers, chunks)
    if not asked.kept:
        stream.background = BackgroundTask(forgotten, container, caller, handles)
    return stream


def _headers(asked: AskedChat, handles: Sequence[RunHandle]) -> dict[str, str]:
    headers = {"x-run-id": handles[0].run_id}
    if asked.kept:
        headers["x-conversation-id"] = handles[0].conversation_id
    if handles[0].existing:
        headers[REPLAYED] = "true"
    return headers


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "invalid_json", "The body is not JSON.") from error
    if not isinstance(body, dict):
        raise HttpError(400, "invalid_body", "The body must be a JSON object.")
    return cast("dict[str, Any]", body)


def _no_json(name: str) -> float:
    raise ValueError(name)
