"""Chat completions as runs: each choice is one, of a conversation that ends with it unless it is to be kept."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Final

import structlog

from app.api.errors import HttpError, body_of, status_of
from app.api.openai.chat_answers import ChatAnswer
from app.api.openai.chat_chunks import ChatChunks, ChoiceBatch
from app.api.openai.chat_requests import AskedChat
from app.bootstrap import Container
from app.domain.errors import AppError, ConversationNotFound, RequestError, RunNotFound
from app.domain.models.conversations import Caller
from app.domain.models.events import EventBatch, RunWaiting
from app.domain.models.runs import FINAL_STATUSES, RunRequest, RunStatus
from app.services.runs import RunHandle

log = structlog.get_logger(__name__)

_PARAMS: Final[Mapping[str, str]] = {
    "agent": "model",
    "client_tools": "tools",
    "idempotency_key": "Idempotency-Key",
    "input": "messages",
    "instructions": "messages",
    "output_schema": "response_format.json_schema.schema",
}
"""What services call otherwise than this API."""


async def started(
    container: Container, caller: Caller, asked: AskedChat, idempotency_key: str | None
) -> Sequence[RunHandle]:
    """Start the run of each choice, all or none.

    Raises:
        HttpError: what is named does not exist, or cannot be run (`param` names it).
        StorageUnavailable: the database did not answer.
    """
    handles: list[RunHandle] = []
    try:
        with _wire_params(asked.conversation_param):
            for index in range(asked.choices):
                key = f"{idempotency_key}#{index}" if idempotency_key is not None and index else idempotency_key
                request = RunRequest(
                    caller=caller,
                    input=asked.input,
                    agent=asked.model,
                    conversation_id=asked.conversation_id,
                    options=asked.options,
                    stream=asked.stream,
                    idempotency_key=key,
                    stateless=not asked.kept,
                )
                handles.append(await container.runs.start(request))
    except (AppError, HttpError):
        for handle in handles:
            with suppress(AppError):
                await container.runs.cancel(caller, handle.run_id)
        await forgotten(container, caller, handles)
        raise
    return handles


async def answered(
    container: Container, caller: Caller, handles: Sequence[RunHandle], answers: Sequence[ChatAnswer]
) -> None:
    """Read all runs to their ends into their answers.

    Raises:
        StorageUnavailable: the database did not answer.
    """
    for choice, (handle, answer) in enumerate(zip(handles, answers, strict=True)):
        async with aclosing(_told(container, caller, handle, choice)) as batches:
            async for batch in batches:
                for item in batch.events:
                    answer.feed(item.event)


async def told_batches(
    container: Container, caller: Caller, handles: Sequence[RunHandle], chunks: ChatChunks
) -> AsyncGenerator[EventBatch]:
    """Yield what all runs tell as it comes, until the chunks are over; leaving early stops nothing.

    Raises:
        StorageUnavailable: the database did not answer.
    """
    readers = [_told(container, caller, handle, choice) for choice, handle in enumerate(handles)]
    nexts: dict[asyncio.Task[ChoiceBatch | None], AsyncGenerator[ChoiceBatch]] = {}
    try:
        if len(readers) == 1:
            async for batch in readers[0]:
                yield batch
                if chunks.is_over:
                    return
            return
        nexts = {asyncio.ensure_future(_next(reader)): reader for reader in readers}
        while nexts and not chunks.is_over:
            done, _ = await asyncio.wait(nexts, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                reader = nexts.pop(task)
                batch = task.result()
                if batch is not None:
                    nexts[asyncio.ensure_future(_next(reader))] = reader
                    yield batch
    finally:
        for task in nexts:
            task.cancel()
        if nexts:
            await asyncio.wait(nexts)
        for reader in readers:
            await reader.aclose()


async def forgotten(container: Container, caller: Caller, handles: Sequence[RunHandle]) -> None:
    """Delete the conversations of a call that is not kept, each when its run has ended; never raises.

    What was used, and that the run ended, stays. One that waits for a person is kept until it has ended; that, and
    what this process cannot delete any more, is left to retention.
    """
    for handle in handles:
        try:
            if (await handle.result()).status in FINAL_STATUSES:
                await container.conversations.delete(caller, handle.conversation_id)
        except (ConversationNotFound, RunNotFound):
            continue  # a repeated request has done it
        except AppError as error:
            log.warning("conversation_not_forgotten", run_id=handle.run_id, code=error.code)


async def _next(reader: AsyncGenerator[ChoiceBatch]) -> ChoiceBatch | None:
    return await anext(reader, None)


async def _told(container: Container, caller: Caller, handle: RunHandle, choice: int) -> AsyncGenerator[ChoiceBatch]:
    """Yield the events of a run until it has ended or waits now; that it has waited once is left out."""
    position = 0
    while True:
        waited = False
        async with aclosing(handle.events(position)) as batches:
            async for batch in batches:
                events = batch.events
                if events:
                    position = events[-1].sequence
                    waited = isinstance(events[-1].event, RunWaiting)
                if waited and (await container.runs.summary(caller, handle.run_id)).status is not RunStatus.WAITING:
                    events = events[:-1]
                else:
                    waited = False
                yield ChoiceBatch(events, batch.recorded, choice)
        if not waited:
            return


@contextmanager
def _wire_params(conversation: str) -> Generator[None]:
    """Name parameters as this API does in what services refuse in the block."""
    try:
        yield
    except RequestError as error:
        body = body_of(error)
        raise HttpError(
            status_of(error).status, body.code, body.message, param=_wire(error.param, conversation)
        ) from error


def _wire(param: str | None, conversation: str) -> str | None:
    if param is None:
        return None
    root, bracket, rest = param.partition("[")
    if root in {"conversation_id", "on_busy"}:
        return conversation
    if root == "client_tools" and bracket:
        index, _, field = rest.partition("].")
        return f"tools[{index}].function.{field}" if field else f"tools[{rest}"
    return f"{_PARAMS.get(root, root)}{bracket}{rest}"
