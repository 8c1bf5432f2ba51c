"""Tool calls that wait for a person: what is open, and the decisions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Path, Query
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.api.dependencies import Running, SessionCaller
from app.api.json_replies import JsonReply
from app.api.openai.access import principal_of
from app.api.openapi import replies
from app.domain.models.approvals import Approval, ApprovalState, Decision
from app.domain.models.runs import RunStatus

router = APIRouter(prefix="/api", tags=["approvals"], dependencies=[Depends(principal_of)])

MAX_DECISIONS: Final = 100
MAX_REQUESTS: Final = 1_000
"""Most requests of one run in a reply; a run has a few."""

RunId = Annotated[str, Path(alias="runId")]


class ApprovalReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """A request for approval, and what became of it."""

    object: Literal["approval"] = "approval"
    run_id: str
    conversation_id: str
    call_id: str
    step: str
    """The call's path in its run: names the request where a call id occurs twice."""
    name: str
    """The tool."""
    arguments: str
    """The model's JSON text."""
    agent: str
    scope: str
    """The path of the nested agent it belongs to; empty for the run's own."""
    state: ApprovalState
    always: bool
    """Whether the decision holds for every later call of the tool in this run."""
    message: str | None
    """What the model is told of a rejection; null: a standard text."""
    decided_by: str | None
    requested_at: datetime
    expires_at: datetime | None
    """When the request counts as rejected; null once it is decided."""
    decided_at: datetime | None


class ApprovalList(Struct, frozen=True, kw_only=True):
    """Requests for approval."""

    object: Literal["list"] = "list"
    data: list[ApprovalReply]


class DecidedReply(Struct, frozen=True, rename="camel"):
    """The decisions are recorded."""

    run_id: str
    undecided: int
    """Requests of the run that are still open; with 0 it goes on."""
    status: RunStatus
    """Where the run stands now."""


class DecisionBody(BaseModel):
    """A person's answer to one request."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)

    call_id: str = Field(min_length=1, description="The call's id, or its step where an id occurs twice.")
    approve: bool = Field(description="Whether the tool may be called.")
    message: str | None = Field(default=None, description="Told to the model with a rejection.")
    always: bool = Field(default=False, description="Hold on to this answer for every later call of the tool.")


class DecisionsBody(BaseModel):
    """Decisions on requests of one run: all of them are recorded, or none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decisions: list[DecisionBody] = Field(min_length=1, max_length=MAX_DECISIONS)


@router.get(
    "/runs/{runId}/approvals",
    summary="List a run's approvals",
    responses=replies(ApprovalList, 401, 404, 503, description="All requests of the run, decided ones included."),
    response_class=JsonReply,
    response_model=None,
)
async def run_approvals(run_id: RunId, caller: SessionCaller, container: Running) -> JsonReply:
    """List what a run has asked for, in the order of asking."""
    return JsonReply(_approval_list(await container.runs.approvals(caller, run_id, limit=MAX_REQUESTS)))


@router.post(
    "/runs/{runId}/approvals",
    summary="Decide approvals",
    responses=replies(DecidedReply, 400, 401, 404, 409, 503, description="The decisions are recorded."),
    response_class=JsonReply,
    response_model=None,
)
async def decide_approvals(body: DecisionsBody, run_id: RunId, caller: SessionCaller, container: Running) -> JsonReply:
    """Decide on requests of a waiting run; with none left open it goes on. The same decision again is no error."""
    decisions = [Decision(item.call_id, item.approve, item.message, item.always) for item in body.decisions]
    undecided = await container.runs.decide(caller, run_id, decisions)
    run = await container.runs.summary(caller, run_id)
    return JsonReply(DecidedReply(run_id, undecided, run.status))


@router.get(
    "/approvals",
    summary="List open approvals",
    responses=replies(ApprovalList, 400, 401, 503, description="The open requests, latest first."),
    response_class=JsonReply,
    response_model=None,
)
async def open_approvals(
    caller: SessionCaller,
    container: Running,
    limit: Annotated[int, Query(ge=1, le=100, description="Most entries of the reply.")] = 100,
) -> JsonReply:
    """List what the user's runs wait for."""
    return JsonReply(_approval_list(await container.runs.approvals(caller, open_only=True, limit=limit)))


def _approval_list(approvals: Sequence[Approval]) -> ApprovalList:
    return ApprovalList(data=[_approval_reply(approval) for approval in approvals])


def _approval_reply(approval: Approval) -> ApprovalReply:
    request = approval.request
    return ApprovalReply(
        run_id=approval.run_id,
        conversation_id=approval.conversation_id,
        call_id=request.call_id,
        step=request.step,
        name=request.tool,
        arguments=request.arguments,
        agent=request.agent,
        scope=request.scope,
        state=approval.state,
        always=approval.always,
        message=approval.message,
        decided_by=approval.decided_by,
        requested_at=approval.requested_at,
        expires_at=approval.expires_at,
        decided_at=approval.decided_at,
    )
