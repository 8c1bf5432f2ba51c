"""Responses: an agent's run as the Responses API tells it, plain, streamed, in the background, and found again."""

import asyncio
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, cast

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.background import BackgroundTask

from app.api.dependencies import Running, Streaming
from app.api.errors import HttpError
from app.api.json_replies import JsonReply
from app.api.openai.access import Access
from app.api.openai.response_events import ResponseEvents
from app.api.openai.response_faults import missing, wrong_type
from app.api.openai.response_ids import response_not_found
from app.api.openai.response_input_items import input_items, page_of
from app.api.openai.response_objects import ResponseEnd
from app.api.openai.response_requests import AskedResponse, asked_response, request_schema
from app.api.openai.response_runs import FoundResponse, StartedResponse, deleted, forgotten, found, gone_on, started
from app.api.openai.response_schemas import ResponseDeletedReply, ResponseItemsReply, ResponseReply
from app.api.openai.response_streams import ResponseFrames, is_whole, played, played_so_far, told_batches
from app.api.openai.upstream import model_not_found, upstream_reply
from app.api.openapi import EVENT_STREAM, content, failures, replies
from app.api.routes.chat import REPLAYED, IdempotencyKey
from app.api.sse import EventStreams
from app.bootstrap import Container
from app.domain.errors import UnknownAgent
from app.domain.models.access import Principal
from app.domain.models.conversations import Caller
from app.domain.models.events import MAX_SEQUENCE, SequencedEvent
from app.domain.models.runs import FINAL_STATUSES, RunStatus

router = APIRouter(prefix="/v1/responses", tags=["responses"])

CANCEL_WAIT_S: Final = 5.0
"""How long a cancelled run may take to write its end before the reply says that it still goes on."""
CANCEL_POLL_S: Final = 0.05
"""How often a waiting run that was cancelled is looked at until a process has closed it."""

_CREATE_ERRORS: Final = (400, 401, 404, 409, 413, 429, 502, 503, 504)
_RESPONSE: Final[dict[str, Any]] = {
    "description": "The response; with `stream`, its events: the name of each is its `type`, "
    "`sequence_number` counts them from 0 without gaps.",
    "content": {**content(ResponseReply), **EVENT_STREAM},
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": request_schema()}},
    }
}

Id = Annotated[str, Path(alias="responseId")]


@router.post(
    "",
    summary="Create a response",
    responses={200: _RESPONSE, **failures(*_CREATE_ERRORS)},
    response_class=JsonReply,
    response_model=None,
    openapi_extra=_BODY,
)
async def create_response(
    request: Request,
    access: Access,
    container: Running,
    streams: Streaming,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Run an agent, or answer the approvals that a response waits for. `model` is the agent's key.

    A client that leaves stops nothing: the run goes on, and its response can be read by its id.
    """
    raw = await request.body()
    body = _object(raw)
    model = body.get("model")
    if model is None and _answers_approvals(body):
        model = ""
    elif model is None:
        raise missing("model")
    elif not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    else:
        try:
            model = container.provider.agent(model).key
        except UnknownAgent:
            return await upstream_reply(request, raw, model, access, path="/responses")
        if not access.may_use_agent(model):
            raise model_not_found(model)
    asked = asked_response(body, model)
    if asked.asked.answers:
        response = await gone_on(container, access, asked)
    else:
        response = await started(container, access.caller, asked, idempotency_key)
    return await _reply(container, streams, access, asked, response)


async def _reply(
    container: Container, streams: EventStreams, access: Principal, asked: AskedResponse, response: StartedResponse
) -> Response:
    caller, head = access.caller, response.head
    headers = {"x-conversation-id": response.conversation_id, "x-run-id": head.id.run_id}
    if response.existing:
        headers[REPLAYED] = "true"
    stored = head.given.get("store") is not False
    events = ResponseEvents(head)
    if asked.stream:
        stream = streams.open(
            head.id.run_id,
            told_batches(container, caller, events),
            headers,
            ResponseFrames(events, padded=asked.padded),
        )
        if not stored:
            stream.background = BackgroundTask(forgotten, container, caller, response)
        return stream
    if asked.background:
        return JsonReply(await _standing(container, caller, await found(container, caller, str(head.id))), 200, headers)
    reply = JsonReply(_response_of(await played(container, caller, events)), 200, headers)
    if not stored:
        await forgotten(container, caller, response)
    return reply


@router.post(
    "/compact",
    summary="Compact a conversation (not supported)",
    status_code=400,
    responses=failures(400, 401),
    response_class=JsonReply,
    response_model=None,
)
async def compact_response(_access: Access) -> JsonReply:
    """Refuse: agents manage what their models see by themselves."""
    raise HttpError(400, "unsupported_endpoint", "Agents manage what their models see by themselves.")


@router.post(
    "/input_tokens",
    summary="Count the tokens of an input (not supported)",
    status_code=400,
    responses=failures(400, 401),
    response_class=JsonReply,
    response_model=None,
)
async def count_input_tokens(_access: Access) -> JsonReply:
    """Refuse: what an agent's model will read is known to the run only, which adds history, tools and instructions."""
    message = "Tokens of an agent's input cannot be counted before it is run: see the usage of its responses."
    raise HttpError(400, "unsupported_endpoint", message)


@router.get(
    "/{responseId}",
    summary="Retrieve a response",
    responses={200: _RESPONSE, **failures(400, 401, 404, 503)},
    response_class=JsonReply,
    response_model=None,
)
async def retrieve_response(
    response_id: Id,
    access: Access,
    container: Running,
    streams: Streaming,
    stream: Annotated[bool, Query(description="Send its events, and those to come.")] = False,
    starting_after: Annotated[
        int | None, Query(ge=0, le=MAX_SEQUENCE, description="Of a stream: only events with a higher number.")
    ] = None,
    include_obfuscation: Annotated[bool, Query(description="Of a stream: pad deltas with random text.")] = False,
    include: Annotated[list[str] | None, Query(description="Everything that there is, is included.")] = None,
) -> Response:
    """Tell how a response stands or ended, or go on with its stream in the middle, whoever executes its run."""
    del include
    response = await found(container, access.caller, response_id)
    if not stream:
        return JsonReply(await _standing(container, access.caller, response))
    await _check_streamable(container, access.caller, response, starting_after)
    events = ResponseEvents(response.head)
    batches = told_batches(container, access.caller, events)
    return streams.open(
        response.run.id, batches, frames=ResponseFrames(events, starting_after, padded=include_obfuscation)
    )


@router.post(
    "/{responseId}/cancel",
    summary="Cancel a response",
    responses=replies(ResponseReply, 401, 404, 503, description="How it ended, by this or before it."),
    response_class=JsonReply,
    response_model=None,
)
async def cancel_response(response_id: Id, access: Access, container: Running) -> JsonReply:
    """Stop its run, whichever process executes it; one that has ended is left as it is."""
    response = await found(container, access.caller, response_id)
    await container.runs.cancel(access.caller, response.run.id)
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WAIT_S):
            await _ended(container, access.caller, response.run.id)
    return JsonReply(await _standing(container, access.caller, response))


@router.delete(
    "/{responseId}",
    summary="Delete a response",
    responses=replies(ResponseDeletedReply, 401, 404, 503, description="It is gone."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_response(response_id: Id, access: Access, container: Running) -> JsonReply:
    """Delete a response. What it added to a conversation with other responses stays there."""
    response = await found(container, access.caller, response_id)
    await deleted(container, access.caller, response)
    return JsonReply({"id": response_id, "object": "response", "deleted": True})


@router.get(
    "/{responseId}/input_items",
    summary="List the input items of a response",
    responses=replies(ResponseItemsReply, 400, 401, 404, 503, description="A page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_input_items(
    response_id: Id,
    access: Access,
    container: Running,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
    include: Annotated[list[str] | None, Query(description="Everything that there is, is included.")] = None,
) -> JsonReply:
    """List what the request gave; what its conversation held before is not repeated."""
    del include
    response = await found(container, access.caller, response_id)
    items = await input_items(container, access.caller, response)
    return JsonReply(page_of(items, limit, order, after))


async def _ended(container: Container, caller: Caller, run_id: str) -> None:
    while True:
        if (await container.runs.result(caller, run_id)).status in FINAL_STATUSES:
            return
        await asyncio.sleep(CANCEL_POLL_S)  # it still says what it waited for


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_no_number, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError) as error:
        message = "The body is not JSON, or holds a number that is too large."
        raise HttpError(400, "invalid_json", message) from error
    if not isinstance(body, dict):
        raise HttpError(400, "invalid_body", "The body must be a JSON object.")
    return cast("dict[str, Any]", body)


def _no_number(text: str) -> float:
    raise ValueError(text)


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _int(text: str) -> float:
    value = int(text)
    return value if -(2**63) <= value < 2**63 else _no_number(text)


def _answers_approvals(body: Mapping[str, Any]) -> bool:
    given = body.get("input")
    return isinstance(given, list) and any(
        isinstance(item, Mapping) and item.get("type") == "mcp_approval_response" for item in given
    )


async def _standing(container: Container, caller: Caller, response: FoundResponse) -> dict[str, Any]:
    """Return a response as it stands now."""
    head, run = response.head, response.run
    status = (await container.runs.summary(caller, run.id)).status
    over = status in FINAL_STATUSES or status is RunStatus.WAITING
    if not over and head.id.part == 1 and not await container.runs.approvals(caller, run.id, limit=1):
        return head.response(ResponseEnd("queued" if status is RunStatus.QUEUED else "in_progress"))
    result = await container.journal.result(caller, run.id) if over else None
    events = await played_so_far(container, caller, ResponseEvents(head), run, result)
    if events.end is not None and (events.part == head.id.part or events.rebuilt):
        return _response_of(events)
    if events.part != head.id.part or status is RunStatus.WAITING:
        raise response_not_found(str(head.id))
    return head.response(ResponseEnd("queued" if status is RunStatus.QUEUED else "in_progress"))


def _response_of(events: ResponseEvents) -> dict[str, Any]:
    assert events.end is not None
    return events.head.response(events.end, events.output)


async def _check_streamable(
    container: Container, caller: Caller, response: FoundResponse, starting_after: int | None
) -> None:
    """Refuse, before the head is sent, what has no stream any more: parts of old logs are deleted in time."""
    summary = await container.runs.summary(caller, response.run.id)
    if response.head.id.part > 1:
        await _standing(container, caller, response)
    if summary.status not in FINAL_STATUSES:
        return
    stored: list[SequencedEvent] = []
    while page := (await container.journal.events(caller, response.run.id, len(stored) and stored[-1].sequence))[0]:
        stored.extend(page)
    gone = not stored or stored[0].sequence > 1
    if gone or (starting_after is not None and not is_whole(stored)):
        message = "The events of this response have been deleted: retrieve it without stream."
        raise HttpError(400, "stream_expired", message, param="starting_after" if not gone else "stream")
