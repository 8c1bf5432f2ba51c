"""Chat completions that were kept: found again by their id, described anew, and deleted."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.api.errors import HttpError
from app.api.openai.chat_answers import ChatAnswer
from app.api.openai.chat_replies import completion, completion_id
from app.bootstrap import Container
from app.domain.errors import RunNotFound
from app.domain.models.conversations import Caller, Item
from app.domain.models.events import ItemDone, RunCompleted, RunEvent
from app.domain.models.runs import Run, RunResult, RunStatus

_MODEL: Final = "chat_model"
_STOPS: Final = "chat_stops"
_STRUCTURED: Final = "chat_structured"
_OPENED: Final = "chat_opened"
_METADATA: Final = "chat_metadata"
_DELETED: Final = "chat_deleted"

_COMPLETION_ID: Final = re.compile(r"chatcmpl-([0-9a-f]{32})")
_PARTS: Final[Mapping[str, str]] = {"input_text": "text", "input_image": "image_url", "input_file": "file"}


@dataclass(frozen=True, slots=True)
class StoredChat:
    """A completion that was kept, and the run that made it."""

    run: Run
    result: RunResult

    def object(self) -> dict[str, Any]:
        """Return the completion, as it was answered."""
        kept = self.run.options.surface
        answer = ChatAnswer(
            frozenset(str(tool["name"]) for tool in self.run.options.client_tools), structured=kept[_STRUCTURED] is True
        )
        for event in _events(self.run, self.result):
            answer.feed(event)
        metadata = kept.get(_METADATA, self.run.options.metadata)
        return {**completion(self.run.id, str(kept[_MODEL]), [answer], kept[_STOPS]), "metadata": dict(metadata)}

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages that were new with the call, each with an id."""
        instructions = self.run.options.instructions
        leading: list[dict[str, Any]] = [] if instructions is None else [{"role": "system", "content": instructions}]
        told = [*leading, *_messages(self.run.input)]
        prefix = completion_id(self.run.id)
        return [
            {"id": f"{prefix}-{number}", "name": None, "content_parts": None, **message}
            for number, message in enumerate(told)
        ]


def kept_of(model: str, stops: Sequence[str], *, structured: bool, opened: bool) -> dict[str, Any]:
    """Return what a run keeps so that any process can tell its completion again: its `surface`.

    `opened`: the call opens the conversation.
    """
    return {_MODEL: model, _STOPS: list(stops), _STRUCTURED: structured, _OPENED: opened}


async def found(container: Container, caller: Caller, given_id: str) -> StoredChat:
    """Return a completion by its id.

    Raises:
        HttpError: it does not exist for this tenant, was not kept, has no answer, or was deleted (404).
    """
    parsed = _COMPLETION_ID.fullmatch(given_id)
    if parsed is None:
        raise _not_found(given_id)
    run_id = f"run_{parsed[1]}"
    try:
        run = await container.journal.accepted(caller, run_id)
        result = await container.journal.result(caller, run_id)
    except RunNotFound as error:
        raise _not_found(given_id) from error
    kept = run.options.surface
    if _MODEL not in kept or kept.get(_DELETED) or result is None or result.status is not RunStatus.COMPLETED:
        raise _not_found(given_id)
    return StoredChat(run, result)


async def described(container: Container, caller: Caller, chat: StoredChat, metadata: Mapping[str, str]) -> StoredChat:
    """Put other metadata in the place of those of a completion, and return it."""
    await container.journal.note(caller, chat.run.id, {_METADATA: dict(metadata)})
    return await found(container, caller, completion_id(chat.run.id))


async def deleted(container: Container, caller: Caller, chat: StoredChat) -> None:
    """Delete a completion: with its conversation where it opened that and nothing else is in it, else out of sight."""
    run = chat.run
    page, more = await container.runs.list(caller, conversation_id=run.conversation_id, limit=2)
    if run.options.surface.get(_OPENED) and len(page) == 1 and not more:
        await container.conversations.delete(caller, run.conversation_id)
    else:
        await container.journal.note(caller, run.id, {_DELETED: True})


def _not_found(given_id: str) -> HttpError:
    message = f"Chat completion with id '{given_id[:80]}' not found."
    return HttpError(404, "chat_completion_not_found", message, param="completion_id")


def _events(run: Run, result: RunResult) -> Iterator[RunEvent]:
    """Yield what the log has told of an answer: deltas are deleted in time, the result stays."""
    for item in result.items[len(run.input) :]:
        if not str(item.get("type", "")).endswith("_output"):
            yield ItemDone({"type": "message", **item}, "", run.agent)
    yield RunCompleted(run.id, run.conversation_id, result.agent, result.output, result.usage, None, 0)


def _messages(items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    for item in items:
        match item.get("type"):
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                calls = [{"id": item["call_id"], "type": "function", "function": function}]
                yield {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
            case "function_call_output":
                yield {"role": "tool", "content": item["output"], "tool_call_id": item["call_id"]}
            case _:
                yield _message(item)


def _message(item: Item) -> dict[str, Any]:
    role, content = item["role"], item["content"]
    if isinstance(content, str):
        return {"role": role, "content": content}
    texts = "".join(part["text"] for part in content if part["type"] in {"input_text", "output_text"})
    if role == "assistant":
        refusals = "".join(part["refusal"] for part in content if part["type"] == "refusal")
        return {"role": role, "content": texts or None, "refusal": refusals or None}
    return {"role": role, "content": texts, "content_parts": [_part(part) for part in content]}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = _PARTS[part["type"]]
    if kind == "text":
        return {"type": kind, "text": part["text"]}
    if kind == "image_url":
        return {"type": kind, kind: {"url": part["image_url"], "detail": part["detail"]}}
    return {"type": kind, kind: {name: part[name] for name in ("file_data", "filename") if name in part}}
