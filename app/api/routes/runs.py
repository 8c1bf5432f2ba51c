"""Runs: how one stands, its events from any point on, and its end on request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Response

from app.api.dependencies import Running, SessionCaller
from app.api.errors import HttpError
from app.api.json_replies import JsonReply
from app.api.openapi import content, failures, replies
from app.api.run_replies import RunReply, UnfinishedRunReply, run_reply
from app.api.sse import EventStream, position
from app.domain.models.events import SequencedEvent

router = APIRouter(prefix="/api/runs", tags=["runs"])

CANCEL_WAIT_S: Final = 5.0
"""How long a cancelled run may take to write its end before the reply says that it still runs."""

RunId = Annotated[str, Path(alias="runId")]
_SHOWN: Final[dict[str, Any]] = {
    "description": "How it ended; or only its id and status while it has not.",
    "content": content(RunReply, UnfinishedRunReply),
}
_STOPPING: Final[dict[str, Any]] = {
    "description": "It will end: it waits for its turn, or a tool takes its time.",
    "content": content(UnfinishedRunReply),
}
_STREAM: Final[dict[str, Any]] = {
    "description": "The events, as in POST /api/chat/stream.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


@router.get(
    "/{runId}",
    summary="Show a run",
    responses={200: _SHOWN, **failures(401, 404, 503)},
    response_class=JsonReply,
    response_model=None,
)
async def show_run(run_id: RunId, caller: SessionCaller, container: Running) -> JsonReply:
    """Tell how a run ended; a run that failed is a reply like any other, with its error."""
    result = await container.journal.result(caller, run_id)
    return JsonReply(UnfinishedRunReply(run_id) if result is None else run_reply(result))


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
    after: Annotated[int | None, Query(ge=0, description="The number of the last event that was read.")] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """Go on with a stream, or read that of a run that has ended."""
    start = position(run_id, last_event_id, after)
    # This look-up is also what keeps other tenants out: live events are not asked for their owner.
    stored, ended = await container.journal.events(caller, run_id, start)
    if ended and not stored:
        return Response(status_code=204)  # tells a browser's EventSource not to come back
    batches = _one(stored) if ended else container.runs.events(caller, run_id, start)
    return EventStream(run_id, batches, container.settings.server)


@router.post(
    "/{runId}/cancel",
    summary="Cancel a run",
    responses={
        **replies(RunReply, 401, 404, 409, 503, description="How it ended, by this or before it."),
        202: _STOPPING,
    },
    response_class=JsonReply,
    response_model=None,
)
async def cancel_run(run_id: RunId, caller: SessionCaller, container: Running) -> JsonReply:
    """Stop a run: what it said and used is recorded. A run that has ended is left as it is."""
    result = await container.journal.result(caller, run_id)
    if result is None and container.runs.cancel(caller, run_id):
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_WAIT_S):
                result = await container.runs.result(caller, run_id)
        if result is None:
            return JsonReply(UnfinishedRunReply(run_id), 202)
    # It may have ended between the two looks.
    result = result or await container.journal.result(caller, run_id)
    if result is None:
        raise HttpError(409, "run_elsewhere", "Another process executes this run; cancel it there.", param="runId")
    return JsonReply(run_reply(result))


async def _one(batch: Sequence[SequencedEvent]) -> AsyncIterator[Sequence[SequencedEvent]]:
    yield batch
