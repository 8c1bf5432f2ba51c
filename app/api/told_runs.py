"""What the wires of other protocols have in common: their runs, the requests they answer, and their words in errors."""

import hashlib
import re
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Final

from app.api.dependencies import check_agent
from app.api.errors import HttpError, body_of, status_of
from app.api.narrator import call_key
from app.bootstrap import Container
from app.domain.errors import RequestError, RunNotFound
from app.domain.models.access import Principal
from app.domain.models.approvals import Approval, Decision
from app.domain.models.conversations import Caller
from app.domain.models.events import EventBatch, RunWaiting
from app.domain.models.runs import Run, RunStatus
from app.domain.models.threads import Thread

_APPROVAL: Final = re.compile(r"(run_[0-9a-f]{32})\.([0-9]{1,9})\.(.{1,255})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person says to a request for approval."""

    approval_id: str
    approve: bool
    message: str | None
    param: str
    """Where it stands in the request."""


@dataclass(frozen=True, slots=True)
class GoneOn:
    """A run that goes on, as its reader knows it."""

    run: Run
    after: int
    """The number of the event that told that it waits."""
    told_calls: frozenset[str]
    """Calls that were asked about, which the reader knows."""
    denied_calls: frozenset[str]


def wrong(param: str, reason: str, *, code: str = "invalid_value") -> HttpError:
    """Return the error for a value that cannot be; `reason` is the end of a sentence that begins with its name."""
    return HttpError(400, code, f"'{param}' {reason}", param=param)


@contextmanager
def params_named(names: Mapping[str, str]) -> Generator[None]:
    """Name parameters as a protocol does in what services refuse in the block."""
    try:
        yield
    except RequestError as error:
        body = body_of(error)
        root, bracket, rest = (error.param or "").partition("[")
        param = f"{names.get(root, root)}{bracket}{rest}" or None
        raise HttpError(status_of(error).status, body.code, body.message, param=param) from error


def agent_for(access: Principal, container: Container, named: str | None, thread: Thread | None) -> str | None:
    """Return the agent that a run is to name; None: the conversation's, whichever that is by now.

    Raises:
        UnknownAgent: there is none of that name, or the key does not allow it.
    """
    if access.agents is None:
        return None if named is None else container.provider.agent(named).key
    # Named, because the conversation's own agent may be one that the key does not allow.
    agent = container.provider.agent(named or (None if thread is None else thread.agent)).key
    check_agent(access, agent)
    return agent


def start_key(surface: str, *parts: str) -> str:
    """Return the idempotency key of a start that a client has named by parts of its own."""
    named = "\0".join(parts).encode("utf-8", "backslashreplace")
    return f"{surface}:{hashlib.blake2b(named, digest_size=24).hexdigest()}"


async def told(container: Container, caller: Caller, run_id: str, after: int = 0) -> AsyncGenerator[EventBatch]:
    """Yield a run's events until it ends, or waits at this moment; where it waited before is passed over."""
    while True:
        async with aclosing(container.runs.events(caller, run_id, after)) as batches:
            async for batch in batches:
                if batch.events:
                    after = batch.events[-1].sequence
                if await _went_on(container, caller, run_id, batch):
                    yield EventBatch(batch.events[:-1], batch.recorded)
                    break
                yield batch
            else:
                return


async def _went_on(container: Container, caller: Caller, run_id: str, batch: EventBatch) -> bool:
    """Tell whether a run that a batch leaves waiting has gone on since."""
    if not batch.events or not isinstance(batch.events[-1].event, RunWaiting):
        return False
    return (await container.runs.summary(caller, run_id)).status is not RunStatus.WAITING


async def gone_on(container: Container, access: Principal, conversation_id: str, answers: Sequence[Answer]) -> GoneOn:
    """Decide on what a run waits for; the same answers again change nothing.

    Raises:
        HttpError: an answer names no request of the conversation, or other requests are left unanswered (400), or
            what the run did has been deleted (409).
        RunConflict: a request was answered otherwise before.
    """
    caller = access.caller
    named = [_named(answer) for answer in answers]
    run_id, _, _ = named[0]
    if any(other != run_id for other, _, _ in named):
        raise wrong(answers[-1].param, "is for another run than the other answers.")
    try:
        run = await container.journal.accepted(caller, run_id)
    except RunNotFound as error:
        raise _no_request(answers[0]) from error
    if run.conversation_id != conversation_id:
        raise _no_request(answers[0])
    check_agent(access, run.agent)
    approvals = {approval.request.step: approval for approval in await container.runs.approvals(caller, run_id)}
    for answer, (_, _, step) in zip(answers, named, strict=True):
        if step not in approvals:
            raise _no_request(answer)
    steps = {step for _, _, step in named}
    left = [step for step, approval in approvals.items() if approval.state == "pending" and step not in steps]
    if left:
        raise wrong(answers[0].param, f"is not all: {len(left)} more requests must be answered in the same request.")
    after = await _waiting_after(container, caller, run_id, max(sequence for _, sequence, _ in named))
    decisions = [
        Decision(step, answer.approve, answer.message) for answer, (_, _, step) in zip(answers, named, strict=True)
    ]
    await container.runs.decide(caller, run_id, decisions)
    keys = {step: _key(approvals[step]) for step in steps}
    denied = {keys[decision.call_id] for decision in decisions if not decision.approve}
    return GoneOn(run, after, frozenset(keys.values()), frozenset(denied))


def _named(answer: Answer) -> tuple[str, int, str]:
    found = _APPROVAL.fullmatch(answer.approval_id)
    if found is None:
        raise _no_request(answer)
    return found[1], int(found[2]), found[3]


def _no_request(answer: Answer) -> HttpError:
    return wrong(answer.param, "names no request for approval of this conversation.")


def _key(approval: Approval) -> str:
    return call_key(approval.request.scope, approval.request.call_id)


async def _waiting_after(container: Container, caller: Caller, run_id: str, asked: int) -> int:
    position = asked
    while page := (await container.journal.events(caller, run_id, position))[0]:
        for item in page:
            if isinstance(item.event, RunWaiting):
                return item.sequence
        position = page[-1].sequence
    raise HttpError(409, "conflict", "The run has ended, and what it did has been deleted.")
