"""The AI SDK's chat (`useChat` with its default transport): a run as a UI message stream, and its resumption."""

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Response

from app.api.ai_sdk_parts import STREAM_HEADERS, MessageFrames, MessageHead
from app.api.ai_sdk_requests import ChatBody, new_input
from app.api.dependencies import Running, Streaming
from app.api.narrator import Narrator
from app.api.openai.access import Access, principal_of
from app.api.openapi import EVENT_STREAM, failures
from app.api.sse import EventStream, EventStreams
from app.api.told_runs import GoneOn, agent_for, gone_on, params_named, start_key, told
from app.bootstrap import Container
from app.domain.models.access import Principal
from app.domain.models.conversations import Caller
from app.domain.models.runs import Run, RunOptions, RunRequest, RunStatus
from app.domain.models.threads import Thread

router = APIRouter(prefix="/api/chat/ai", tags=["ai sdk"], dependencies=[Depends(principal_of)])

_PARAMS: Final = {
    "client_tools": "tools",
    "conversation_id": "conversationId",
    "id": "id",
    "input": "messages",
    "on_busy": "id",
}
_CONVERSATION: Final = re.compile(r"conv_[0-9a-f]{32}")
_ACTIVE: Final = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
_STREAM: Final[dict[str, Any]] = {
    "description": "The answer as a UI message stream: frames `data: <part>`, and `data: [DONE]` at the end.",
    "headers": {
        name: {"schema": {"type": "string"}, "description": description}
        for name, description in (
            ("x-vercel-ai-ui-message-stream", "v1, the protocol's version."),
            ("x-run-id", "The run."),
            ("x-conversation-id", "Its conversation."),
        )
    },
    "content": EVENT_STREAM,
}


@router.post(
    "",
    summary="Send a message of an AI SDK chat",
    responses={200: _STREAM, **failures(400, 401, 403, 404, 409, 413, 502, 503, 504)},
    status_code=200,  # FastAPI looks for it in the class, which has none
    response_class=EventStream,
    response_model=None,
)
async def send_message(body: ChatBody, access: Access, container: Running, streams: Streaming) -> EventStream:
    """Stream the answer to the last message, or go on with a run whose tool calls were approved, denied or executed.

    The conversation holds what was said before; the other messages of the request are not looked at. A client that
    leaves stops nothing: it resumes the stream, or cancels the run at `POST /api/runs/{runId}/cancel`.
    """
    given = new_input(body)
    with params_named(_PARAMS):
        agent = agent_for(access, container, body.agent, None) if body.agent is not None else None
        thread = await _thread(container, access.caller, body, agent)
        if given.answers:
            going = await gone_on(container, access, thread.conversation_id, given.answers)
            return _stream(access, container, streams, going.run, going)
        calls = [str(item.get("call_id", "")) for item in given.items]
        handle = await container.runs.start(
            RunRequest(
                caller=access.caller,
                input=list(given.items),
                agent=agent_for(access, container, body.agent, thread),
                conversation_id=thread.conversation_id,
                options=RunOptions(client_tools=tuple(body.tools)),
                stream=True,
                idempotency_key=start_key("ai_sdk", thread.conversation_id, given.message_id, *calls),
            )
        )
        run = await container.journal.accepted(access.caller, handle.run_id)
    return _stream(access, container, streams, run)


@router.get(
    "/{chatId}/stream",
    summary="Resume the stream of an AI SDK chat",
    responses={
        200: _STREAM,
        204: {"description": "No run of the chat goes on or waits."},
        **failures(400, 401, 403, 404, 503),
    },
    status_code=200,  # FastAPI looks for it in the class, which has none
    response_class=EventStream,
    response_model=None,
)
async def resume_stream(
    chat_id: Annotated[str, Path(alias="chatId", max_length=255)],
    access: Access,
    container: Running,
    streams: Streaming,
    conversation_id: Annotated[
        str | None, Query(alias="conversationId", description="As in the body of the chat's messages.")
    ] = None,
) -> Response:
    """Stream the answer that is being made, from its beginning: it replaces what the client has of it.

    Of a run that waits for approvals it tells what they are.
    """
    caller = access.caller
    with params_named(_PARAMS):
        name = conversation_id or (chat_id if _CONVERSATION.fullmatch(chat_id) else None)
        if name is not None:
            thread = await container.threads.named(caller, name)
        else:
            thread = await container.threads.find(caller, "ai_sdk", chat_id)
    if thread is None:
        return Response(status_code=204)
    page, _ = await container.runs.list(caller, statuses=_ACTIVE, conversation_id=thread.conversation_id, limit=1)
    if not page:
        return Response(status_code=204)
    return _stream(access, container, streams, await container.journal.accepted(caller, page[0].id))


async def _thread(container: Container, caller: Caller, body: ChatBody, agent: str | None) -> Thread:
    name = body.conversationId or (body.id if _CONVERSATION.fullmatch(body.id) else None)
    if name is not None:
        return await container.threads.named(caller, name)
    return await container.threads.open(caller, "ai_sdk", body.id, agent)


def _stream(
    access: Principal, container: Container, streams: EventStreams, run: Run, going: GoneOn | None = None
) -> EventStream:
    tools = frozenset(str(tool["name"]) for tool in run.options.client_tools)
    narrator = Narrator(
        run.id,
        client_tools=tools,
        told_calls=frozenset() if going is None else going.told_calls,
        denied_calls=frozenset() if going is None else going.denied_calls,
    )
    head = MessageHead(run.id, run.conversation_id, run.agent)
    headers = {**STREAM_HEADERS, "x-run-id": run.id, "x-conversation-id": run.conversation_id}
    batches = told(container, access.caller, run.id, 0 if going is None else going.after)
    return streams.open(run.id, batches, headers, MessageFrames(head, narrator))
