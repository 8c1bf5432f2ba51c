"""Responses as runs: where a request's run belongs, how it starts or goes on, and how one is found again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from app.api.errors import HttpError
from app.api.openai.response_faults import wire_params, wrong_value
from app.api.openai.response_ids import ResponseId, approval_call, parsed_response_id, response_not_found
from app.api.openai.response_inputs import ApprovalAnswer
from app.api.openai.response_objects import SAID_BACK, ResponseHead, head_of
from app.api.openai.response_requests import AskedResponse
from app.bootstrap import Container
from app.domain.errors import ConversationNotFound, RunConflict, RunNotFound
from app.domain.models.access import Principal
from app.domain.models.approvals import Approval, Decision
from app.domain.models.conversations import Caller
from app.domain.models.events import ApprovalRequested, RunWaiting
from app.domain.models.runs import FINAL_STATUSES, Run, RunRequest, RunStatus

DELETED: Final = "deleted"
"""What a run's surface keeps of a response that was deleted."""

_NOT_COMPARED: Final = frozenset({"previous_response_id", "conversation"})


@dataclass(frozen=True, slots=True)
class StartedResponse:
    """A response whose run was accepted, or goes on."""

    head: ResponseHead
    conversation_id: str
    existing: bool = False
    """True: an earlier request with the same idempotency key has started it."""


@dataclass(frozen=True, slots=True)
class FoundResponse:
    """A response and the run it is a part of."""

    head: ResponseHead
    run: Run


async def started(
    container: Container, caller: Caller, asked: AskedResponse, idempotency_key: str | None
) -> StartedResponse:
    """Start the run of a response.

    Raises:
        HttpError: what is named does not exist, or does not go together.
        RunConflict: the idempotency key was used for another request.
    """
    request = RunRequest(
        caller=caller,
        input=asked.asked.items,
        agent=asked.model,
        conversation_id=asked.conversation_id,
        options=asked.options,
        stream=asked.stream,
        idempotency_key=idempotency_key,
        stateless=not asked.store,
    )
    fork, previous = None, None
    with wire_params():
        if asked.previous is not None:
            previous = await _previous(container, caller, asked.previous)
            request = replace(request, conversation_id=previous.conversation_id, after_run_id=previous.id)
            if not asked.store:
                # What is not stored must not be in a conversation that stays.
                fork = await _forked(container, caller, previous, stateless=True)
                request = replace(request, conversation_id=fork)
        else:
            request = replace(request, behind_waiting=False)
        try:
            handle = await container.runs.start(request)
        except RunConflict as conflict:
            if conflict.reason == "approval_required":
                raise _approval_required() from conflict
            if previous is None or conflict.reason != "not_last":
                raise
            fork = await _forked(container, caller, previous, stateless=not asked.store)
            handle = await container.runs.start(replace(request, conversation_id=fork))
    if fork is not None and handle.conversation_id != fork:
        await container.conversations.delete(caller, fork)  # the run has one from an earlier start
    head = head_of(ResponseId(handle.run_id), asked.options)
    assert head is not None
    return StartedResponse(head, handle.conversation_id, handle.existing)


async def found(container: Container, caller: Caller, response_id: str) -> FoundResponse:
    """Return a response by its id.

    Raises:
        HttpError: it does not exist for this tenant, was deleted, or was not to be stored (404).
    """
    return await _found(container, caller, parsed_response_id(response_id), "response_id")


async def _found(container: Container, caller: Caller, response_id: ResponseId, param: str) -> FoundResponse:
    try:
        run = await container.journal.accepted(caller, response_id.run_id)
    except RunNotFound as error:
        raise response_not_found(str(response_id), param) from error
    head = head_of(response_id, run.options)
    if head is None or head.given.get("store") is False or head.given.get(DELETED):
        raise response_not_found(str(response_id), param)
    return FoundResponse(head, run)


async def forgotten(container: Container, caller: Caller, started_response: StartedResponse) -> None:
    """Delete the conversation of a response that is not to be stored, when its run has ended.

    One that waits for a person is deleted after what comes next. If this process dies before, retention deletes it;
    the response cannot be read all the same.
    """
    result = await container.runs.result(caller, started_response.head.id.run_id)
    if result.status in FINAL_STATUSES and "conversation" not in started_response.head.given:
        try:
            await container.conversations.delete(caller, started_response.conversation_id)
        except ConversationNotFound:
            return  # a repeated request has done it


async def deleted(container: Container, caller: Caller, response: FoundResponse) -> None:
    """Delete a response: with its conversation where that holds nothing else, else out of sight.

    A run that goes on is cancelled.
    """
    run = response.run
    if (await container.runs.summary(caller, run.id)).status not in FINAL_STATUSES:
        await container.runs.cancel(caller, run.id)
    page, more = await container.runs.list(caller, conversation_id=run.conversation_id, limit=2)
    if len(page) == 1 and not more and "conversation" not in response.head.given:
        await container.conversations.delete(caller, run.conversation_id)
        return
    await container.journal.note(caller, run.id, {DELETED: True})


async def gone_on(container: Container, access: Principal, asked: AskedResponse) -> StartedResponse:
    """Decide on what a run waits for, and return the response that comes after that.

    Raises:
        HttpError: the answers are not all that are needed, or the request asks for another run than the one there is.
        RunConflict: a request for approval was answered otherwise before.
    """
    caller, answers = access.caller, asked.asked.answers
    run = await _waiting_run(container, access, asked)
    head = head_of(ResponseId(run.id), run.options)
    if head is None:
        raise wrong_value(answers[0].param, "there is no such request for approval.")
    if asked.model not in {"", head.model}:
        raise wrong_value("model", "it is not the agent of the response whose requests are answered.")
    _check_same(asked, head, run)
    approvals = await container.runs.approvals(caller, run.id)
    decisions = [_decision(answer, approvals) for answer in answers]
    left = [approval for approval in approvals if approval.state == "pending" and not _answers(approval, answers)]
    if left:
        raise wrong_value("input", f"{len(left)} more requests for approval must be answered in the same request.")
    parts = await _parts(container, caller, run.id)
    if answers[0].call not in parts.asked:
        raise HttpError(409, "conflict", "The run has ended, and what it did has been deleted.", param="input")
    with wire_params():
        await container.runs.decide(caller, run.id, decisions)
    return StartedResponse(head.of_part(parts.asked[answers[0].call] + 1), run.conversation_id)


async def _waiting_run(container: Container, access: Principal, asked: AskedResponse) -> Run:
    answers = asked.asked.answers
    first = answers[0]
    for answer in answers:
        if answer.run_id != first.run_id:
            raise wrong_value(answer.param, "all answers of a request are for one response.")
    if asked.previous is not None and asked.previous.run_id != first.run_id:
        raise wrong_value("previous_response_id", "it is not the response whose requests are answered.")
    try:
        run = await container.journal.accepted(access.caller, first.run_id)
    except RunNotFound as error:
        raise wrong_value(first.param, "there is no such request for approval.") from error
    if asked.conversation_id not in {None, run.conversation_id}:
        raise wrong_value("conversation", "it is not the one of the response whose requests are answered.")
    if not access.may_use_agent(run.agent):
        raise wrong_value(first.param, "there is no such request for approval.")
    return run


def _check_same(asked: AskedResponse, head: ResponseHead, run: Run) -> None:
    """Refuse what would change a run that has begun; what it was started with may be said again."""
    reason = "a run that waits goes on as it was started; it cannot be changed."
    for name, value in asked.given.items():
        if name not in _NOT_COMPARED and value != head.given.get(name, SAID_BACK.get(name)):
            raise wrong_value(name, reason)
    options = asked.options
    if options.instructions is not None and options.instructions != head.instructions:
        raise wrong_value("instructions", reason)
    if options.client_tools and [dict(tool) for tool in options.client_tools] != [dict(tool) for tool in head.tools]:
        raise wrong_value("tools", reason)
    if options.metadata and options.metadata != head.metadata:
        raise wrong_value("metadata", reason)
    for name, value in options.model_settings.items():
        if run.options.model_settings.get(name) != value:
            raise wrong_value("include" if name == "response_include" else name, reason)


def _decision(answer: ApprovalAnswer, approvals: Sequence[Approval]) -> Decision:
    known = [approval for approval in approvals if _names(answer, approval)]
    if not known:
        raise wrong_value(f"{answer.param}.approval_request_id", "there is no such request for approval.")
    return Decision(known[0].request.step, answer.approve, answer.reason)


def _names(answer: ApprovalAnswer, approval: Approval) -> bool:
    return answer.call == _call(approval)


def _call(approval: Approval) -> str:
    return approval_call(approval.request.call_id, approval.request.scope)


def _answers(approval: Approval, answers: tuple[ApprovalAnswer, ...]) -> bool:
    return any(_names(answer, approval) for answer in answers)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where a run has waited."""

    asked: Mapping[str, int]
    """Which part has asked to allow a call, by call."""
    last: int


async def _parts(container: Container, caller: Caller, run_id: str) -> _Parts:
    asked: dict[str, int] = {}
    part, last = 1, 0
    while page := (await container.journal.events(caller, run_id, last))[0]:
        for item in page:
            event = item.event
            if isinstance(event, ApprovalRequested):
                asked[approval_call(event.call_id, event.scope)] = part
            elif isinstance(event, RunWaiting):
                part += 1
        last = page[-1].sequence
    return _Parts(asked, part)


async def answers_before(container: Container, caller: Caller, response: FoundResponse) -> list[tuple[str, Approval]]:
    """Return the answers that a later part of a run has begun with, and which calls they are for."""
    parts = await _parts(container, caller, response.run.id)
    approvals = [(_call(approval), approval) for approval in await container.runs.approvals(caller, response.run.id)]
    before = response.head.id.part - 1
    return [(call, approval) for call, approval in approvals if parts.asked.get(call) == before]


async def _previous(container: Container, caller: Caller, previous: ResponseId) -> Run:
    """Return the run of an earlier response that can be followed.

    Raises:
        HttpError: there is no such response, it waits for a person, or it is not the last part of its run.
    """
    param = "previous_response_id"
    response = await _found(container, caller, previous, param)
    summary = await container.runs.summary(caller, previous.run_id)
    if summary.status is RunStatus.WAITING:
        raise _approval_required()
    if await container.runs.approvals(caller, previous.run_id, limit=1):
        last = (await _parts(container, caller, previous.run_id)).last
        if previous.part != last:
            raise wrong_value(param, f"the response has gone on as {replace(previous, part=last)}.")
    elif previous.part != 1:
        raise response_not_found(str(previous), param)
    return response.run


def _approval_required() -> HttpError:
    message = "A response waits for approvals: the input must answer them, as mcp_approval_response items."
    return HttpError(400, "approval_required", message, param="input")


async def _forked(container: Container, caller: Caller, run: Run, *, stateless: bool) -> str:
    """Return a new conversation that holds what the run's one held when the run had ended."""
    source = run.conversation_id
    return (await container.conversations.fork(caller, source, after_run_id=run.id, stateless=stateless)).id
