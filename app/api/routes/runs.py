"""Runs: started in the background, listed, shown, read from any point on, and ended on request."""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Final

import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import Field

from app.api.dependencies import Running, SessionCaller, Streaming
from app.api.json_replies import JsonReply
from app.api.openai.access import Access, principal_of
from app.api.openapi import EVENT_STREAM, content, failures, replies
from app.api.routes.chat import REPLAYED, START_ERRORS, ChatRequest, IdempotencyKey, replayed, run_request
from app.api.run_replies import (
    RunList,
    RunReply,
    StartedRunReply,
    UnfinishedRunReply,
    run_list,
    run_reply,
)
from app.api.sse import EventStream, position
from app.bootstrap import Container
from app.domain.errors import StorageUnavailable
from app.domain.models.conversations import Caller
from app.domain.models.events import MAX_SEQUENCE
from app.domain.models.runs import FINAL_STATUSES, RunResult, RunStatus

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/runs", tags=["runs"], dependencies=[Depends(principal_of)])

CANCEL_WAIT_S: Final = 5.0
"""How long a cancelled run may take to write its end before the reply says that it still goes on."""

CANCEL_POLL_S: Final = 0.05
"""How often a waiting run that was cancelled is looked at until a process has closed it."""

RunId = Annotated[str, Path(alias="runId")]
Statuses = Annotated[list[RunStatus] | None, Query(alias="status", description="Only these; name it more than once.")]
_STARTED: Final[dict[str, Any]] = {
    "description": "It is accepted, and executed whether or not anyone reads it.",
    "headers": {
        "location": {"schema": {"type": "string"}, "description": "The run."},
        REPLAYED: {"schema": {"type": "string"}, "description": "true: an earlier request has started the run."},
    },
    "content": content(StartedRunReply),
}
_SHOWN: Final[dict[str, Any]] = {
    "description": "How it ended, or what it waits for; only its ids and status while it goes on.",
    "content": content(RunReply, UnfinishedRunReply),
}
_STOPPING: Final[dict[str, Any]] = {
    "description": "It will end: a tool takes its time, or the process that executes it has yet to notice.",
    "content": content(RunReply, UnfinishedRunReply),
}
_STREAM: Final[dict[str, Any]] = {
    "description": "The events, as in POST /api/chat/stream.",
    "content": EVENT_STREAM,
}


class RunStart(ChatRequest):
    """One message, answered in the background."""

    stream: bool = Field(default=True, description="Whether the run's events tell its text as it is made.")


@router.post(
    "",
    summary="Start a run in the background",
    responses={202: _STARTED, **failures(*START_ERRORS)},
    status_code=202,
    response_class=JsonReply,
    response_model=None,
)
async def start_run(
    body: RunStart,
    access: Access,
    container: Running,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> JsonReply:
    """Accept a message and reply at once; read the run's events, or ask how it stands."""
    asked = await run_request(body, access, container, idempotency_key, stream=body.stream)
    handle = await container.runs.start(asked)
    try:
        status = (await container.runs.summary(asked.caller, handle.run_id)).status
    except StorageUnavailable:
        # It is on disk all the same: an error now would make the client start it once more.
        log.warning("status_of_started_run_unknown", run_id=handle.run_id)
        status = RunStatus.QUEUED
    headers = {"location": request.url_for("show_run", runId=handle.run_id).path, **replayed(handle)}
    return JsonReply(StartedRunReply(handle.run_id, handle.conversation_id, status), 202, headers)


@router.get(
    "",
    summary="List runs",
    responses=replies(RunList, 400, 401, 503, description="A page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_runs(
    caller: SessionCaller,
    container: Running,
    statuses: Statuses = None,
    conversation_id: Annotated[str | None, Query(alias="conversationId", description="Only of this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Most entries of the reply.")] = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> JsonReply:
    """List the user's runs, newest first."""
    page, has_more = await container.runs.list(
        caller, statuses=statuses or (), conversation_id=conversation_id, limit=limit, after=after
    )
    return JsonReply(run_list(page, has_more=has_more))


@router.get(
    "/{runId}",
    summary="Show a run",
    responses={200: _SHOWN, **failures(401, 404, 503)},
    response_class=JsonReply,
    response_model=None,
)
async def show_run(run_id: RunId, caller: SessionCaller, container: Running) -> JsonReply:
    """Tell how a run stands or ended; a run that failed is a reply like any other, with its error."""
    return JsonReply(await _standing(container, caller, run_id))


@router.get(
    "/{runId}/events",
    summary="Read a run's events",
    responses={
        200: _STREAM,
        204: {"description": "The run has ended and has no more events."},
        **failures(400, 401, 404, 503),
    },
    status_code=200,  # FastAPI looks for it in the class, which has none
    response_class=EventStream,
    response_model=None,
)
async def run_events(
    run_id: RunId,
    caller: SessionCaller,
    container: Running,
    streams: Streaming,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_SEQUENCE, description="The number of the last event that was read.")
    ] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """Go on with a stream, or read that of a run that has ended. It ends with the run, or when the run must wait.

    Read on after `run.waiting`, it stays open until the run goes on.
    """
    start = position(run_id, last_event_id, after)
    if not container.runs.is_live(caller, run_id, start):
        # Looked up before the head is sent: an error in a stream that has begun is no status.
        stored, status = await container.journal.events(caller, run_id, start)
        over = status in FINAL_STATUSES and not stored
        # A number above the last one is that of an event that was told early and lost: its reader must learn the end.
        if over and start <= await container.journal.last_sequence(caller, run_id):
            return Response(status_code=204)  # tells a browser's EventSource not to come back
    return streams.open(run_id, container.runs.events(caller, run_id, start))


@router.post(
    "/{runId}/cancel",
    summary="Cancel a run",
    responses={
        **replies(RunReply, 401, 404, 503, description="How it ended, by this or before it."),
        202: _STOPPING,
    },
    response_class=JsonReply,
    response_model=None,
)
async def cancel_run(run_id: RunId, caller: SessionCaller, container: Running) -> JsonReply:
    """Stop a run, whichever process executes it: what it said and used is recorded. An ended one is left as it is."""
    await container.runs.cancel(caller, run_id)
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WAIT_S):
            return JsonReply(run_reply(await _end(container, caller, run_id)))
    reply = await _standing(container, caller, run_id)
    ended = isinstance(reply, RunReply) and reply.status in FINAL_STATUSES
    return JsonReply(reply, 200 if ended else 202)


async def _standing(container: Container, caller: Caller, run_id: str) -> RunReply | UnfinishedRunReply:
    summary = await container.runs.summary(caller, run_id)
    match summary.status:
        case RunStatus.QUEUED:
            return UnfinishedRunReply(run_id, summary.conversation_id, "queued")
        case RunStatus.RUNNING:
            return UnfinishedRunReply(run_id, summary.conversation_id, "running")
        case _:
            result = await container.journal.result(caller, run_id)
    if result is None:  # it was waiting, and went on between the two looks
        return UnfinishedRunReply(run_id, summary.conversation_id, "running")
    return run_reply(result)


async def _end(container: Container, caller: Caller, run_id: str) -> RunResult:
    while True:
        result = await container.runs.result(caller, run_id)
        if result.status in FINAL_STATUSES:
            return result
        await asyncio.sleep(CANCEL_POLL_S)  # it still says what it waited for
