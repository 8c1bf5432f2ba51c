"""The Agent User Interaction protocol (AG-UI): a run of an agent as a stream of its events."""

import re
from typing import Any, Final

from fastapi import APIRouter, Depends

from app.api.ag_ui_events import AgUiFrames, AgUiHead
from app.api.ag_ui_requests import RunAgentBody, ag_ui_input, run_options
from app.api.dependencies import Running, Streaming, check_agent
from app.api.narrator import Narrator
from app.api.openai.access import Access, principal_of
from app.api.openapi import EVENT_STREAM, failures
from app.api.sse import EventStream
from app.api.told_runs import GoneOn, gone_on, params_named, start_key, told
from app.bootstrap import Container
from app.domain.models.conversations import Caller
from app.domain.models.runs import Run, RunRequest
from app.domain.models.threads import Thread

router = APIRouter(prefix="/agui", tags=["ag-ui"], dependencies=[Depends(principal_of)])

_PARAMS: Final = {
    "client_tools": "tools",
    "conversation_id": "threadId",
    "id": "threadId",
    "idempotency_key": "runId",
    "input": "messages",
    "instructions": "context",
    "metadata": "parentRunId",
    "on_busy": "threadId",
    "variables": "state",
}
_CONVERSATION: Final = re.compile(r"conv_[0-9a-f]{32}")
_STREAM: Final[dict[str, Any]] = {
    "description": "The run: frames `data: <event>`, from RUN_STARTED to RUN_FINISHED or RUN_ERROR.",
    "headers": {
        name: {"schema": {"type": "string"}, "description": description}
        for name, description in (("x-run-id", "Our id of the run."), ("x-conversation-id", "Its conversation."))
    },
    "content": EVENT_STREAM,
}


@router.post(
    "/{agent}",
    summary="Run an agent for an AG-UI client",
    responses={200: _STREAM, **failures(400, 401, 403, 404, 409, 413, 502, 503, 504)},
    status_code=200,  # FastAPI looks for it in the class, which has none
    response_class=EventStream,
    response_model=None,
)
async def run_agent(
    agent: str, body: RunAgentBody, access: Access, container: Running, streams: Streaming
) -> EventStream:
    """Run the agent with what is new in the messages, or go on with a run that waits for approvals.

    The same `runId` again tells the same run from its beginning: a client that lost the stream reads it so. A client
    that leaves stops nothing.
    """
    given = ag_ui_input(body)
    options = run_options(body)
    caller = access.caller
    going: GoneOn | None = None
    with params_named(_PARAMS):
        check_agent(access, container.provider.agent(agent).key)
        thread = await _thread(container, caller, body, agent)
        if given.answers:
            going = await gone_on(container, access, thread.conversation_id, given.answers)
            run = going.run
        else:
            handle = await container.runs.start(
                RunRequest(
                    caller=caller,
                    input=list(given.items),
                    agent=agent,
                    conversation_id=thread.conversation_id,
                    options=options,
                    stream=True,
                    idempotency_key=start_key("ag_ui", thread.conversation_id, body.run_id),
                )
            )
            run = await container.journal.accepted(caller, handle.run_id)
    frames = AgUiFrames(_head(body), _narrator(run, going))
    headers = {"x-run-id": run.id, "x-conversation-id": run.conversation_id}
    batches = told(container, caller, run.id, 0 if going is None else going.after)
    return streams.open(run.id, batches, headers, frames)


async def _thread(container: Container, caller: Caller, body: RunAgentBody, agent: str) -> Thread:
    if _CONVERSATION.fullmatch(body.thread_id):
        return await container.threads.named(caller, body.thread_id)
    return await container.threads.open(caller, "ag_ui", body.thread_id, agent)


def _head(body: RunAgentBody) -> AgUiHead:
    major = (body.protocol_version or "0").partition(".")[0]
    return AgUiHead(body.thread_id, body.run_id, body.state, subagents=major.isdecimal() and int(major) >= 1)


def _narrator(run: Run, going: GoneOn | None) -> Narrator:
    tools = frozenset(str(tool["name"]) for tool in run.options.client_tools)
    if going is None:
        return Narrator(run.id, client_tools=tools)
    return Narrator(run.id, client_tools=tools, told_calls=going.told_calls, denied_calls=going.denied_calls)
