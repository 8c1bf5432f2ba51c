"""Who may do what: the principal that a request is made by, and the keys and projects that say so."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from app.domain.models.conversations import Caller

Scope = Literal["read", "write", "usage", "admin", "events:write", "events:read"]
"""`read`: look at what there is; `write`: run agents, call models, change and delete; `usage`: usage and costs;
`admin`: keys and projects of the organization; `events:write`: report events from outside; `events:read`: look at what
was recorded of all sessions."""

ALL_SCOPES: frozenset[str] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is made by, and what that one may do."""

    caller: Caller
    scopes: frozenset[str] = field(default=ALL_SCOPES)
    agents: frozenset[str] | None = None
    """Keys of the agents it may run; None: all."""
    models: frozenset[str] | None = None
    """Upstream models it may call; None: all that the server allows."""
    keyless: bool = False
    """Nobody had to show a key: the server answers on this machine only, and has none."""

    def may_use_agent(self, key: str) -> bool:
        """Tell whether it may run an agent."""
        return self.agents is None or key in self.agents

    def may_use_model(self, name: str) -> bool:
        """Tell whether it may call an upstream model."""
        return self.models is None or name in self.models


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows of who makes it."""

    token: str | None
    """The bearer token: a key of ours, or a token of the identity provider. None: the request has none."""
    organization: str | None = None
    """The `OpenAI-Organization` header; it can only name the organization that the token has anyway."""
    project: str | None = None
    """The `OpenAI-Project` header; it narrows a token of the whole organization to one project."""


RefusalReason = Literal[
    "missing", "unknown", "expired", "revoked", "mismatched_organization", "mismatched_project", "issuer_away"
]
"""`unknown`: no such key, or a token that the identity provider did not sign for us. `issuer_away`: a token cannot be
judged, as the identity provider's keys cannot be read; it may be fine a moment later."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nobody is served."""

    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: everything but the secret, of which there is only the hash."""

    id: str
    """`key_` and 32 hex digits."""
    organization_id: str
    project_id: str | None
    """None: a key of the whole organization."""
    user_id: str | None
    """Whom it acts for; None: for the organization as a whole, whose every user's conversations it sees."""
    name: str
    redacted: str
    """The first and last characters of the secret, to recognise it by."""
    scopes: frozenset[str]
    agents: frozenset[str] | None
    models: frozenset[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """Up to a minute old."""

    def is_active(self, now: datetime) -> bool:
        """Tell whether requests may be made with it."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def principal(self) -> Principal:
        """Return who a request with this key is made by."""
        caller = Caller(self.organization_id, self.user_id, self.project_id, self.id)
        return Principal(caller, self.scopes, self.agents, self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a key is asked to be."""

    organization_id: str
    name: str
    project_id: str | None = None
    user_id: str | None = None
    scopes: frozenset[str] = frozenset({"read", "write"})
    agents: frozenset[str] | None = None
    models: frozenset[str] | None = None
    lifetime_s: float | None = None
    """Seconds until it expires; None: never."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just made: the only time that its secret is told."""

    key: ApiKey
    secret: str
    """`sk-` and 43 characters."""


@dataclass(frozen=True, slots=True)
class Project:
    """A part of an organization that usage and keys are sorted by."""

    id: str
    """`proj_` and 32 hex digits."""
    organization_id: str
    name: str
    created_at: datetime
    archived_at: datetime | None
    """When it was closed, and its keys were revoked; None: it is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """Which keys of an organization are listed, in the order of their creation."""

    project_id: str | None = None
    """Only this project's keys."""
    unassigned: bool = False
    """Only keys that belong to no project."""
    revoked: bool = False
    """Also those that were revoked."""
    limit: int = 20
    after: str | None = None
    """The id that the page before ended with."""
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """Whom a token of the identity provider speaks for."""

    organization_id: str
    user_id: str
    scopes: frozenset[str]
