"""Chat: one message to its answer, whole or as a stream of events."""

from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from app.api.dependencies import Running
from app.api.errors import failed_run_reply
from app.api.json_replies import JsonReply
from app.api.json_values import JsonObject, shallow
from app.api.openapi import failures, replies
from app.api.output_schemas import OutputSchema
from app.api.run_replies import RunReply, run_reply
from app.api.sse import EventStream
from app.bootstrap import Container
from app.domain.models.agents import HandoffHistory
from app.domain.models.conversations import Item
from app.domain.models.runs import RunOptions, RunRequest, RunStatus

router = APIRouter(prefix="/api", tags=["chat"])

_ERRORS: Final = (400, 404, 409, 413, 429, 500, 502, 503, 504)
_STREAM: Final[dict[str, Any]] = {
    "description": "The run's events. `id` is `<run id>:<number>`, `data` is JSON whose `type` is the `event`; "
    "the last one is run.completed, run.failed or run.cancelled.",
    "headers": {
        name: {"schema": {"type": "string"}, "description": description}
        for name, description in (("x-run-id", "The run."), ("x-conversation-id", "Its conversation."))
    },
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


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
    responses=replies(RunReply, *_ERRORS, description="The answer."),
    response_class=JsonReply,
    response_model=None,
)
async def chat(body: ChatRequest, container: Running) -> JsonReply:
    """Run the agent to its end. A client that leaves stops nothing: the answer is in the conversation."""
    result = await container.runs.run(await _run_request(body, container, stream=False))
    return JsonReply(run_reply(result)) if result.status is RunStatus.COMPLETED else failed_run_reply(result)


@router.post(
    "/chat/stream",
    summary="Send a message and get the answer as it is made",
    responses={200: _STREAM, **failures(*_ERRORS)},
    status_code=200,  # FastAPI looks for it in the class, which has none
    response_class=EventStream,
    response_model=None,
)
async def chat_stream(body: ChatRequest, container: Running) -> EventStream:
    """Stream the run's events. A client that lost the stream goes on at GET /api/runs/{runId}/events."""
    handle = await container.runs.start(await _run_request(body, container, stream=True))
    # A queued run tells nothing before its turn; the headers let its client cancel it all the same.
    headers = {"x-run-id": handle.run_id, "x-conversation-id": handle.conversation_id}
    return EventStream(handle.run_id, handle.events(0), container.settings.server, headers)


async def _run_request(body: ChatRequest, container: Container, *, stream: bool) -> RunRequest:
    session = await container.client_sessions.get(body.session_id)
    options = body.options
    return RunRequest(
        caller=session.caller,
        input=body.message,
        agent=body.agent,
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
        ),
        stream=stream,
    )
