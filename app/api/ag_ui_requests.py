"""What an AG-UI client sends: new are the user's last message and tool outputs, behind the agent's last message.

The server has the other messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.api.json_values import JsonObject, shallow
from app.api.told_runs import Answer, wrong
from app.domain.models.conversations import Item
from app.domain.models.runs import RunOptions

_NAME: Final = 255
JsonValue = Annotated[Any, AfterValidator(shallow)]


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)


class ClientTool(_Wire):
    """A tool that the client executes."""

    name: str
    description: str
    parameters: JsonObject | None = Field(default=None, description="A JSON schema; unset: no arguments.")
    metadata: JsonObject | None = Field(default=None, description="The client's own; the model does not see it.")


class ContextEntry(_Wire):
    """Something to know for this run."""

    description: str
    value: str


class ResumeEntry(_Wire):
    """The answer to an interrupt."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: JsonValue = Field(default=None, description='{"approved": true or false, "message"}; cancelled is a no.')
    metadata: JsonObject | None = Field(default=None, description="The client's own.")


class RunAgentBody(_Wire):
    """The protocol's `RunAgentInput`."""

    thread_id: str = Field(
        min_length=1, max_length=_NAME, description="A name of the client's, or a conversation's id."
    )
    run_id: str = Field(
        min_length=1, max_length=_NAME, description="The same id again gives the same run, not another."
    )
    protocol_version: str | None = Field(default=None, description="1.0 and later are told of subagents.")
    parent_run_id: str | None = Field(default=None, max_length=_NAME, description="Kept with the run.")
    state: JsonObject | None = Field(
        default=None, description="Variables for prompt templates and tools; given back as it is."
    )
    messages: list[JsonObject] = Field(description="New are the user's last one and tool outputs.")
    tools: list[ClientTool] = Field(default_factory=list[ClientTool], description="Tools that the client executes.")
    context: list[ContextEntry] = Field(default_factory=list[ContextEntry], description="For this run only.")
    forwarded_props: JsonValue = Field(default=None, description="The variable `forwarded_props`.")
    resume: list[ResumeEntry] = Field(default_factory=list[ResumeEntry], description="Answers to a run that waits.")


@dataclass(frozen=True, slots=True)
class AgUiInput:
    """What is new in a request."""

    items: Sequence[Item]
    """What tools of the client have answered, and what the user says; in the Responses format."""
    answers: Sequence[Answer]


def ag_ui_input(body: RunAgentBody) -> AgUiInput:
    """Return what is new in a request.

    Raises:
        HttpError: a message is malformed, or holds what cannot be given to a model (400).
    """
    users: list[Item] = []
    outputs: list[Item] = []
    served = _served_calls(body)
    for index in range(len(body.messages) - 1, -1, -1):
        message, param = body.messages[index], f"messages[{index}]"
        match message.get("role"):
            case "user":
                # One before it belongs to a run that ended without an answer; the conversation has it.
                users = users or [{"role": "user", "content": _content(message.get("content"), f"{param}.content")}]
            case "tool":
                call_id = message.get("toolCallId")
                if not isinstance(call_id, str):
                    raise wrong(f"{param}.toolCallId", "must be a text.")
                if call_id not in served:
                    output = _result(message, param)
                    outputs.insert(0, {"type": "function_call_output", "call_id": call_id, "output": output})
            case "assistant":
                break
            case "system" | "developer" | "activity" | "reasoning":
                continue
            case _:
                raise wrong(f"{param}.role", "must be user, assistant, system, developer, tool, activity or reasoning.")
    answers = [_answer(entry, f"resume[{index}]") for index, entry in enumerate(body.resume)]
    if not answers and not users and not outputs:
        raise wrong("messages", "hold nothing new behind the agent's last message.")
    if answers and (users or outputs):
        raise wrong("messages", "hold something new: a run that waits takes nothing but answers, in 'resume'.")
    return AgUiInput([*outputs, *users], answers)


def _served_calls(body: RunAgentBody) -> frozenset[str]:
    """Return the calls of the server's own tools: those that the messages name otherwise than the client's tools."""
    own = {tool.name for tool in body.tools}
    served: set[str] = set()
    for message in body.messages:
        calls = message.get("toolCalls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, Mapping) else None
            if isinstance(function, Mapping) and function.get("name") not in own:
                served.add(str(call.get("id")))
    return frozenset(served)


def run_options(body: RunAgentBody) -> RunOptions:
    """Return what a request sets for its run.

    Raises:
        HttpError: a system or developer message has no text (400).
    """
    told: list[str] = []
    for index, message in enumerate(body.messages):
        if message.get("role") in {"system", "developer"}:
            content = message.get("content")
            if not isinstance(content, str):
                raise wrong(f"messages[{index}].content", "must be a text.")
            told.append(content)
    told += [f"{entry.description}: {entry.value}" for entry in body.context]
    variables = dict(body.state or {})
    if body.forwarded_props not in (None, {}):
        variables["forwarded_props"] = body.forwarded_props
    return RunOptions(
        variables=variables,
        metadata={} if body.parent_run_id is None else {"parent_run_id": body.parent_run_id},
        instructions="\n\n".join(text for text in told if text) or None,
        client_tools=tuple(_tool(tool) for tool in body.tools),
    )


def _tool(tool: ClientTool) -> dict[str, Any]:
    schema = {} if not tool.parameters else {"parameters": tool.parameters}
    return {"type": "function", "name": tool.name, "description": tool.description, "strict": False, **schema}


def _content(content: Any, param: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong(param, "must be a text or a list of parts.")
    return [_part(part, f"{param}[{number}]") for number, part in enumerate(content)]


def _part(part: Any, param: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "input_text", "text": part["text"]}
    if kind not in {"image", "document"}:
        raise wrong(f"{param}.type", "must be text (with a text), image or document.")
    source = part.get("source")
    value = source.get("value") if isinstance(source, Mapping) else None
    if not isinstance(source, Mapping) or not isinstance(value, str):
        raise wrong(f"{param}.source", "must have a type and a value.")
    image = kind == "image"
    detail = {"detail": "auto"} if image else {}
    named = {"type": "input_image" if image else "input_file", **detail}
    match source.get("type"):
        case "data":
            url = f"data:{source.get('mimeType') or 'application/octet-stream'};base64,{value}"
            return {**named, "image_url": url} if image else {**named, "file_data": url, "filename": "document"}
        case "url" if value.startswith(("data:", "https://", "http://")):
            return {**named, "image_url" if image else "file_url": value}
        case "file" if source.get("provider") in {None, "openai"}:
            return {**named, "file_id": value}
        case _:
            raise wrong(f"{param}.source", "must be data, a data, https or http URL, or a file of openai.")


def _result(message: Mapping[str, Any], param: str) -> str:
    content, error = message.get("content"), message.get("error")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
            raise wrong(f"{param}.content", "must be a text, or text parts.")
        content = "".join(str(text) for text in texts)
    if not isinstance(content, str):
        raise wrong(f"{param}.content", "must be a text, or text parts.")
    return "\n".join(text for text in (content, error) if isinstance(text, str) and text)


def _answer(entry: ResumeEntry, param: str) -> Answer:
    if entry.status == "cancelled":
        return Answer(entry.interrupt_id, approve=False, message=None, param=f"{param}.interruptId")
    payload = entry.payload
    approved = payload.get("approved") if isinstance(payload, Mapping) else payload
    if not isinstance(approved, bool):
        raise wrong(f"{param}.payload", "must say whether the call is approved.")
    message = payload.get("message") if isinstance(payload, Mapping) else None
    return Answer(entry.interrupt_id, approved, message if isinstance(message, str) else None, f"{param}.interruptId")
