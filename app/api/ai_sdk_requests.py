"""What the AI SDK's chat transport sends: of all messages the last one is new, the others are in the conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.json_replies import encode
from app.api.json_values import JsonObject
from app.api.told_runs import Answer, wrong
from app.domain.models.conversations import Item

_URLS: Final = ("data:", "https://", "http://")


class ChatBody(BaseModel):
    """The body that `DefaultChatTransport` sends, and what its `body` option may add."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(
        min_length=1, max_length=255, description="The chat: a name of the client's own, or a conversation's id."
    )
    messages: list[JsonObject] = Field(
        min_length=1, description="UI messages; the last one is new, the server has the others."
    )
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    messageId: str | None = Field(  # noqa: N815 - the protocol's word
        default=None, description="The message that goes on: with answers to requests for approval, or tool outputs."
    )
    agent: str | None = Field(default=None, description="Unset: the conversation's agent.")
    conversationId: str | None = Field(  # noqa: N815 - the protocol's way of writing
        default=None, description="The conversation, in place of the one that the chat's id stands for."
    )
    tools: list[JsonObject] = Field(
        default_factory=list[JsonObject],
        description="Function tools that the client executes, in the Responses format; the model may call them.",
    )


@dataclass(frozen=True, slots=True)
class NewInput:
    """What is new in a request: one of the two."""

    message_id: str
    items: Sequence[Item] = ()
    """A message of the user, or what tools of the client have answered; in the Responses format."""
    answers: Sequence[Answer] = ()


def new_input(body: ChatBody) -> NewInput:
    """Return what is new in a request.

    Raises:
        HttpError: there is nothing new, or something that cannot be done here (400).
    """
    if body.trigger == "regenerate-message":
        raise wrong(
            "trigger",
            "cannot be 'regenerate-message': an answer stays in its conversation. Send the message again, "
            "or in a new chat.",
            code="unsupported_value",
        )
    index = len(body.messages) - 1
    message, param = body.messages[index], f"messages[{index}]"
    message_id, role, parts = message.get("id"), message.get("role"), message.get("parts")
    if not isinstance(message_id, str) or not message_id:
        raise wrong(f"{param}.id", "must be a text.")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise wrong(f"{param}.parts", "must be a list of parts.")
    if role == "user":
        if body.messageId is not None:
            raise wrong(
                "messageId",
                "names a message of the user: what was said stays in its conversation. Send a new message instead.",
                code="unsupported_value",
            )
        content = [_input_part(part, f"{param}.parts[{number}]") for number, part in enumerate(parts)]
        if not content:
            raise wrong(f"{param}.parts", "must not be empty.")
        return NewInput(message_id, items=({"role": "user", "content": content},))
    if role != "assistant":
        raise wrong(f"{param}.role", "must be user, or assistant with answers to its tool calls.")
    return _gone_on(message_id, parts, param)


def _input_part(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "input_text", "text": part["text"]}
    if kind != "file":
        raise wrong(f"{param}.type", "must be text (with a text) or file.")
    url, media_type, filename = part.get("url"), part.get("mediaType"), part.get("filename")
    if not isinstance(url, str) or not url.startswith(_URLS):
        raise wrong(f"{param}.url", "must be a data, https or http URL.")
    if not isinstance(media_type, str):
        raise wrong(f"{param}.mediaType", "must be a text.")
    if media_type.startswith("image/"):
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    named = {"filename": filename} if isinstance(filename, str) and filename else {}
    if url.startswith("data:"):
        return {"type": "input_file", "file_data": url, "filename": "file", **named}
    return {"type": "input_file", "file_url": url}


def _gone_on(message_id: str, parts: Sequence[Mapping[str, Any]], param: str) -> NewInput:
    """Return the answers to requests for approval, or else the outputs of the client's tools in the last step."""
    begin = max((number for number, part in enumerate(parts) if part.get("type") == "step-start"), default=0)
    answers: list[Answer] = []
    outputs: list[Item] = []
    for number, part in enumerate(parts):
        kind, state = part.get("type"), part.get("state")
        if not isinstance(kind, str) or not (kind == "dynamic-tool" or kind.startswith("tool-")):
            continue
        if state == "approval-responded":
            answers.append(_answer(part, f"{param}.parts[{number}].approval"))
        elif number >= begin and state in {"output-available", "output-error"} and not part.get("providerExecuted"):
            outputs.append(_output(part, f"{param}.parts[{number}]"))
    if not answers and not outputs:
        raise wrong("messages", "hold nothing new: neither a message, nor an answer to a tool call.")
    return NewInput(message_id, answers=answers) if answers else NewInput(message_id, items=outputs)


def _output(part: Mapping[str, Any], param: str) -> Item:
    call_id, output = part.get("toolCallId"), part.get("output")
    if not isinstance(call_id, str) or not call_id:
        raise wrong(f"{param}.toolCallId", "must be a text.")
    if part.get("state") == "output-error":
        output = str(part.get("errorText") or "The tool failed.")
    text = output if isinstance(output, str) else encode(output).decode()
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def _answer(part: Mapping[str, Any], param: str) -> Answer:
    approval = part.get("approval")
    if not isinstance(approval, Mapping) or not isinstance(approval.get("approved"), bool):
        raise wrong(param, "must say whether the call is approved.")
    reason = approval.get("reason")
    message = reason if isinstance(reason, str) and reason else None
    return Answer(str(approval.get("id")), approval["approved"], message, f"{param}.id")
