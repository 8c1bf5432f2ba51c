"""Who asks: one dependency that guards every route of the wire API, and what it lets the asker do.

`AccessGate` (app.api.access_gate) has found out who asks before a route is looked for; these dependencies decide
whether that one may use the route: `Access` by the method, `UsageAccess` and `AdminAccess` by a scope of their own.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from app.api.errors import HttpError
from app.domain.models.access import Principal, Scope

PRINCIPAL: Final = "durable_agents.principal"
"""Where the gate leaves the principal in a request's scope."""

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_bearer: Final = HTTPBearer(
    scheme_name="ApiKey",
    description="A key, `sk-…`, from `durable-agents keys create`; or a token of the identity provider. "
    "A server on loopback that has no keys takes requests without.",
    auto_error=False,  # it describes the header; the gate has judged it
)

_Described = Annotated[Any, Security(_bearer)]


def _guard(scope: Scope | None) -> Callable[[Request, Any], Awaitable[Principal]]:
    async def allowed(request: Request, _described: _Described) -> Principal:
        principal = request.scope.get(PRINCIPAL)
        if not isinstance(principal, Principal):
            raise RuntimeError("The route is not behind the access gate.")
        needed = scope or ("read" if request.method in _READING else "write")
        if needed not in principal.scopes:
            raise missing_scope(needed)
        return principal

    return allowed


principal_of: Final = _guard(None)
"""Return who asks; a GET or HEAD needs the scope `read`, everything else `write`."""

usage_principal_of: Final = _guard("usage")
"""Return who asks; it needs the scope `usage`."""

admin_principal_of: Final = _guard("admin")
"""Return who asks; it needs the scope `admin`."""

events_writer_of: Final = _guard("events:write")
"""Return who asks; it needs the scope `events:write`."""

events_reader_of: Final = _guard("events:read")
"""Return who asks; it needs the scope `events:read`."""

Access = Annotated[Principal, Depends(principal_of)]
UsageAccess = Annotated[Principal, Depends(usage_principal_of)]
AdminAccess = Annotated[Principal, Depends(admin_principal_of)]
EventsWriteAccess = Annotated[Principal, Depends(events_writer_of)]
EventsReadAccess = Annotated[Principal, Depends(events_reader_of)]


def missing_scope(scope: str) -> HttpError:
    """Return the error for somebody who is known but may not do this."""
    message = f"You have insufficient permissions for this operation. Missing scope: {scope}."
    return HttpError(403, "insufficient_permissions", message, type="permission_error")


def whole_organization(access: Principal) -> str:
    """Return the organization, if the one who asks may administer all of it.

    Raises:
        HttpError: that one is confined to a project (403).
    """
    if access.caller.project_id is not None:
        message = "This needs a key of the whole organization; yours is confined to a project."
        raise HttpError(403, "insufficient_permissions", message, type="permission_error")
    return access.caller.organization_id
