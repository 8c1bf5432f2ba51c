"""Chat: one message to its answer, whole or as a stream of events."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from app.api.dependencies import Running, Streaming, check_agent, session_of
from app.api.errors import HttpError, failed_run_reply
from app.api.json_replies import JsonReply
from app.api.json_values import JsonObject, shallow
from app.api.openai.access import Access, principal_of
from app.api.openapi import EVENT_STREAM, content, failures, replies
from app.api.output_schemas import OutputSchema
from app.api.run_replies import RunReply, run_reply
from app.api.sse import EventStream
from app.bootstrap import Container
from app.domain.models.access import Principal
from app.domain.models.agents import HandoffHistory
from app.domain.models.conversations import Item
from app.domain.models.runs import OnBusy, RunOptions, RunRequest, RunStatus
from app.services.runs import RunHandle

router = APIRouter(prefix="/api", tags=["chat"], dependencies=[Depends(principal_of)])

REPLAYED: Final = "idempotent-replayed"
"""The header of a reply about a run that an earlier request has started."""

START_ERRORS: Final = (400, 404, 409, 413, 429, 502, 503, 504)
_ERRORS: Final = (400, 404, 409, 413, 429, 500, 502, 503, 504)
_STREAM: Final[dict[str, Any]] = {
    "description": "The run's events. `id` is `<run id>:<number>`, `data` is JSON whose `type` is the `event`; "
    "the last one is run.completed, run.failed, run.cancelled or run.waiting. An event without an id is told before it "
    "is on disk; a frame that is only an id follows once it is.",
    "headers": {
        name: {"schema": {"type": "string"}, "description": description}
        for name, description in (
            ("x-run-id", "The run."),
            ("x-conversation-id", "Its conversation."),
            (REPLAYED, "true: an earlier request with the same Idempotency-Key has started the run."),
        )
    },
    "content": EVENT_STREAM,
}
_WAITING: Final[dict[str, Any]] = {
    "description": "The run waits for the approvals in the reply; it goes on at POST /api/runs/{runId}/approvals.",
    "content": content(RunReply),
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The client's own name for this start, 1 to 255 printable characters: "
        "the same key and request give the same run, not a second one.",
    ),
]


def _message(value: object) -> str | list[Item]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return shallow(value)
    raise PydanticCustomError("message_type", "Must be a text or a list of input items")


Message = Annotated[
    Any,  # checked by hand: a union would name its members in the error's path, and refuse half an emoji
    PlainValidator(_message),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
]


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)


class ChatOptions(_Body):
    """What one run may set for itself; unset means the agent's or the server's value."""

    model: str | None = Field(default=None, min_length=1, description="Overrides the model of every agent in the run.")
    model_settings: JsonObject = Field(default_factory=dict, description="The SDK's ModelSettings, by field.")
    max_turns: int | None = Field(default=None, description="Model calls of the run's loop: 1 to 1000.")
    timeout_s: float | None = Field(default=None, description="Seconds for the whole run; then it is cancelled.")
    variables: JsonObject = Field(default_factory=dict, description="Values for prompt templates and tools.")
    metadata: JsonObject = Field(default_factory=dict, description="Kept with the run; never in a prompt.")
    handoff_history: HandoffHistory | None = Field(default=None, description="What agents see after a handoff.")
    output_schema: OutputSchema | None = Field(
        default=None, description="JSON schema (draft 2020-12) that the answer must follow; it refers to itself only."
    )
    history_items: int | None = Field(default=None, description="Latest history items that the model sees; 0 for none.")
    instructions: str | None = Field(
        default=None, description="Added to the instructions of the run's agents, for this run only."
    )
    client_tools: list[JsonObject] = Field(
        default_factory=list,
        description="Function tools that the client executes, in the Responses format; a call of one ends the run.",
    )
    on_busy: OnBusy | None = Field(
        default=None,
        description="While a run of the conversation is unfinished: wait behind it, be refused (409), or cancel it.",
    )


class ChatRequest(_Body):
    """One message."""

    session_id: str = Field(description="From POST /api/session.")
    message: Message = Field(description="The user's text, or input items in the Responses format.")
    conversation_id: str | None = Field(default=None, description="Unset: the session's own conversation.")
    agent: str | None = Field(default=None, description="Unset: the conversation's agent.")
    options: ChatOptions = ChatOptions()


@router.post(
    "/chat",
    summary="Send a message and get the whole answer",
    responses={**replies(RunReply, *_ERRORS, description="The answer."), 202: _WAITING},
    response_class=JsonReply,
    response_model=None,
)
async def chat(
    body: ChatRequest, access: Access, container: Running, idempotency_key: IdempotencyKey = None
) -> JsonReply:
    """Run the agent to its end, or until it needs a person's approval.

    A client that leaves stops nothing: the answer is in the conversation.
    """
    handle = await container.runs.start(await run_request(body, access, container, idempotency_key, stream=False))
    result = await handle.result()
    match result.status:
        case RunStatus.COMPLETED:
            reply = JsonReply(run_reply(result))
        case RunStatus.WAITING:
            reply = JsonReply(run_reply(result), 202)
        case _:
            reply = failed_run_reply(result)
    reply.headers.update(replayed(handle))
    return reply


@router.post(
    "/chat/stream",
    summary="Send a message and get the answer as it is made",
    responses={200: _STREAM, **failures(*_ERRORS)},
    status_code=200,  # FastAPI looks for it in the class, which has none
    response_class=EventStream,
    response_model=None,
)
async def chat_stream(
    body: ChatRequest,
    access: Access,
    container: Running,
    streams: Streaming,
    idempotency_key: IdempotencyKey = None,
) -> EventStream:
    """Stream the run's events. A client that lost the stream goes on at GET /api/runs/{runId}/events."""
    handle = await container.runs.start(await run_request(body, access, container, idempotency_key, stream=True))
    # A queued run tells nothing before its turn; the headers let its client cancel it all the same.
    headers = {"x-run-id": handle.run_id, "x-conversation-id": handle.conversation_id, **replayed(handle)}
    return streams.open(handle.run_id, handle.events(0), headers)


def replayed(handle: RunHandle) -> dict[str, str]:
    """Return the header that tells a start that an earlier request made from a new one."""
    return {REPLAYED: "true"} if handle.existing else {}


async def run_request(
    body: ChatRequest, access: Principal, container: Container, idempotency_key: str | None, *, stream: bool
) -> RunRequest:
    """Return what a body asks of the run service.

    Raises:
        SessionNotFound: there is no such session for the one who asks.
        UnknownAgent: the key does not allow the agent.
        HttpError: the key does not allow the model (404).
    """
    session = await session_of(access, container, body.session_id)
    options = body.options
    agent = body.agent
    if access.agents is not None:
        # Named here, because the conversation's own agent may be one that the key does not allow.
        agent = container.provider.agent(agent or session.agent).key
        check_agent(access, agent)
    if options.model is not None and not access.may_use_model(options.model):
        message = f"The model '{options.model[:80]}' does not exist or you do not have access to it."
        raise HttpError(404, "model_not_found", message, param="options.model")
    return RunRequest(
        caller=session.caller,
        input=body.message,
        agent=agent,
        conversation_id=session.conversation_id if body.conversation_id is None else body.conversation_id,
        options=RunOptions(
            model=options.model,
            model_settings=options.model_settings,
            max_turns=options.max_turns,
            timeout_s=options.timeout_s,
            variables=options.variables,
            metadata=options.metadata,
            handoff_history=options.handoff_history,
            output_schema=options.output_schema,
            history_items=options.history_items,
            instructions=options.instructions,
            client_tools=tuple(options.client_tools),
        ),
        stream=stream,
        idempotency_key=idempotency_key,
        on_busy=options.on_busy,
    )
