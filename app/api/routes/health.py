"""Whether the process is up, whether it can work, and what it is."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from msgspec import UNSET, Struct, UnsetType

from app import __version__
from app.api.access_gate import asks_more
from app.api.dependencies import Running
from app.api.errors import ErrorBody
from app.api.json_replies import JsonReply
from app.api.openai.access import admin_principal_of
from app.api.openapi import replies
from app.bootstrap import Container, Readiness
from app.domain.metrics_ports import DestinationHealth

router = APIRouter(tags=["service"])

DEMO_NOTE = "No OPENAI_API_KEY is set: the demo model stands in. It is deterministic and knows nothing."


class HealthReply(Struct, frozen=True):
    """The process is up."""

    status: Literal["ok"] = "ok"


class ReadyReply(Struct, frozen=True, omit_defaults=True):
    """Whether this process can take work."""

    ready: bool
    database: str
    """`ok`, `unavailable`, or what is wrong with its schema."""
    error: ErrorBody | UnsetType = UNSET
    """Only when it cannot."""
    relay: Literal["ok", "failing", "off"] | UnsetType = UNSET
    """Of the spool on this machine; only with `verbose`, like all below."""
    spool: "SpoolReply | UnsetType" = UNSET
    destinations: "list[DestinationReply] | UnsetType" = UNSET
    """Empty also while the database has not answered yet."""
    seen_seconds_ago: float | UnsetType = UNSET


class SpoolReply(Struct, frozen=True):
    """What the spool of this machine holds and has lost."""

    waiting_bytes: int
    max_bytes: int
    dropped: int
    refused: int
    put_aside: int


class DestinationReply(Struct, frozen=True):
    """How a destination of completion events does; all endpoints of tenants together are one."""

    name: str
    state: Literal["ok", "failing", "dead_letters"]
    last_success: str | None
    last_failure: str | None
    pending: int
    dead: int
    unread: int
    oldest_seconds: float | None
    """Age of the oldest event that has not arrived; null: there is none."""


class ServiceReply(Struct, frozen=True, omit_defaults=True):
    """What answers here."""

    name: str
    version: str
    description: str
    model: str
    """The model of the default agent; `demo` while the demo model stands in."""
    links: dict[str, str]
    note: str | UnsetType = UNSET
    """Only while the demo model stands in."""


@router.head("/health", include_in_schema=False)
@router.get("/health", include_in_schema=False, response_model=None)
@router.head("/healthz", include_in_schema=False)
@router.get(
    "/healthz",
    summary="Is the process up?",
    responses=replies(HealthReply, description="It is."),
    response_class=JsonReply,
    response_model=None,
)
async def healthz() -> JsonReply:
    """Say that the process is up; nothing else is asked."""
    return JsonReply(HealthReply())


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Can it take work?",
    responses=replies(ReadyReply, 503, description="It can."),
    response_class=JsonReply,
    response_model=None,
)
async def readyz(
    request: Request,
    container: Running,
    _verbose: Annotated[
        str | None,
        Query(
            alias="verbose", description="Also how the relay and each destination do; a key needs the scope `admin`."
        ),
    ] = None,
) -> JsonReply:
    """Look at the database and its schema. Destinations that fail do not make a process unready: events wait."""
    details: dict[str, Any] = {}
    if asks_more(request.scope):
        await admin_principal_of(request, None)
        details = await _details(container)
    state: Readiness = await container.ready()
    if state.ready:
        return JsonReply(ReadyReply(ready=True, database=state.database, **details))
    error = ErrorBody(f"Not ready: the database is {state.database}.", "server_error", None, "not_ready")
    reply = ReadyReply(ready=False, database=state.database, error=error, **details)
    return JsonReply(reply, 503, {"retry-after": "1"})


async def _details(container: Container) -> dict[str, Any]:
    health = await container.monitoring.health()
    spool = health.spool
    details: dict[str, Any] = {
        "relay": health.relay,
        "destinations": [_destination(one) for one in health.destinations or ()],
    }
    if health.seen_s is not None:
        details["seen_seconds_ago"] = round(health.seen_s, 1)
    if spool is not None:
        details["spool"] = SpoolReply(
            spool.waiting_bytes, spool.max_bytes, spool.dropped, spool.refused, spool.put_aside
        )
    return details


def _destination(one: DestinationHealth) -> DestinationReply:
    now_ms = datetime.now(UTC).timestamp() * 1000
    return DestinationReply(
        name=one.name,
        state=one.state,
        last_success=_moment(one.last_success_ms),
        last_failure=_moment(one.last_failure_ms),
        pending=one.pending,
        dead=one.dead,
        unread=one.unread,
        oldest_seconds=None if one.oldest_ms is None else round(max(0.0, now_ms - one.oldest_ms) / 1000, 1),
    )


def _moment(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat()


@router.get(
    "/",
    summary="What is this?",
    responses={**replies(ServiceReply, description="The service.")},
    response_class=JsonReply,
    response_model=None,
)
async def service(container: Running) -> JsonReply:
    """Say what answers here and where to go on."""
    demo = container.provider.name == "demo"
    return JsonReply(
        ServiceReply(
            name="durable-agents",
            version=__version__,
            description="OpenAI Agents SDK agents as a service: durable sessions, accounted runs, streamed.",
            model=container.provider.agent(None).model,
            links={
                "openapi": "/openapi.json",
                "agents": "/api/agents",
                "tools": "/api/tools",
                "session": "/api/session",
                "chat": "/api/chat",
                "stream": "/api/chat/stream",
                "runs": "/api/runs",
                "approvals": "/api/approvals",
                "conversations": "/api/conversations",
                "health": "/healthz",
                "readiness": "/readyz",
            },
            note=DEMO_NOTE if demo else UNSET,
        )
    )
