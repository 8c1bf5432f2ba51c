"""Keys and projects as the platform's clients know them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from app.domain.models.access import ApiKey, Project


class KeyOwner(Struct, frozen=True, kw_only=True):
    """Whom a key of the organization acts for."""

    type: Literal["user", "service_account"]
    """`service_account`: the organization as a whole."""
    object: Literal["organization.user", "organization.service_account"]
    id: str
    name: str
    role: Literal["owner", "member"]
    """`owner`: the key may administer."""
    created_at: int


class ProjectKeyUser(Struct, frozen=True, kw_only=True):
    """The user that a project's key acts for."""

    id: str
    name: str
    email: str
    """Empty: users are whatever the caller says; no addresses are kept."""
    role: str
    created_at: int


class ProjectKeyAccount(Struct, frozen=True, kw_only=True):
    """The project itself, that a key acts for which names no user."""

    id: str
    name: str
    role: str
    created_at: int


class ProjectKeyOwner(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom a project's key acts for."""

    type: Literal["user", "service_account"]
    user: ProjectKeyUser | UnsetType = UNSET
    service_account: ProjectKeyAccount | UnsetType = UNSET


class AdminKeyReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key of the whole organization."""

    id: str
    object: Literal["organization.admin_api_key"]
    name: str
    redacted_value: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    owner: KeyOwner
    scopes: list[str]
    agents: list[str] | None
    models: list[str] | None
    value: str | UnsetType = UNSET
    """The key itself; only in the reply to its creation."""


class ProjectKeyReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key of one project."""

    id: str
    object: Literal["organization.project.api_key"]
    name: str
    redacted_value: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    owner: ProjectKeyOwner
    owner_project_access: Literal["active"]
    scopes: list[str]
    agents: list[str] | None
    models: list[str] | None
    value: str | UnsetType = UNSET
    """The key itself; only in the reply to its creation."""


class ProjectReply(Struct, frozen=True, kw_only=True):
    """A project."""

    id: str
    object: Literal["organization.project"]
    name: str
    created_at: int
    archived_at: int | None
    status: Literal["active", "archived"]


class AdminKeyList(Struct, frozen=True, kw_only=True):
    """A page of the organization's keys."""

    object: Literal["list"]
    data: list[AdminKeyReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ProjectKeyList(Struct, frozen=True, kw_only=True):
    """A page of a project's keys."""

    object: Literal["list"]
    data: list[ProjectKeyReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ProjectList(Struct, frozen=True, kw_only=True):
    """A page of projects."""

    object: Literal["list"]
    data: list[ProjectReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AdminKeyDeleted(Struct, frozen=True, kw_only=True):
    """The key is revoked."""

    id: str
    object: Literal["organization.admin_api_key.deleted"] = "organization.admin_api_key.deleted"
    deleted: Literal[True] = True


class ProjectKeyDeleted(Struct, frozen=True, kw_only=True):
    """The key is revoked."""

    id: str
    object: Literal["organization.project.api_key.deleted"] = "organization.project.api_key.deleted"
    deleted: Literal[True] = True


def admin_key_reply(key: ApiKey, secret: str | UnsetType = UNSET) -> AdminKeyReply:
    """Return a key of the organization; with its secret when it was just made."""
    return AdminKeyReply(
        id=key.id,
        object="organization.admin_api_key",
        name=key.name,
        redacted_value=key.redacted,
        created_at=_seconds(key.created_at),
        expires_at=_moment(key.expires_at),
        last_used_at=_moment(key.last_used_at),
        owner=KeyOwner(
            type="service_account" if key.user_id is None else "user",
            object="organization.service_account" if key.user_id is None else "organization.user",
            id=key.user_id or key.organization_id,
            name=key.user_id or key.organization_id,
            role=_role(key),
            created_at=_seconds(key.created_at),
        ),
        scopes=sorted(key.scopes),
        agents=_names(key.agents),
        models=_names(key.models),
        value=secret,
    )


def project_key_reply(key: ApiKey, secret: str | UnsetType = UNSET) -> ProjectKeyReply:
    """Return a key of a project; with its secret when it was just made."""
    at, role = _seconds(key.created_at), _role(key)
    if key.user_id is None:
        account = ProjectKeyAccount(id=key.project_id or "", name=key.name, role=role, created_at=at)
        owner = ProjectKeyOwner(type="service_account", service_account=account)
    else:
        user = ProjectKeyUser(id=key.user_id, name=key.user_id, email="", role=role, created_at=at)
        owner = ProjectKeyOwner(type="user", user=user)
    return ProjectKeyReply(
        id=key.id,
        object="organization.project.api_key",
        name=key.name,
        redacted_value=key.redacted,
        created_at=at,
        expires_at=_moment(key.expires_at),
        last_used_at=_moment(key.last_used_at),
        owner=owner,
        owner_project_access="active",
        scopes=sorted(key.scopes),
        agents=_names(key.agents),
        models=_names(key.models),
        value=secret,
    )


def project_reply(project: Project) -> ProjectReply:
    """Return a project."""
    return ProjectReply(
        id=project.id,
        object="organization.project",
        name=project.name,
        created_at=_seconds(project.created_at),
        archived_at=_moment(project.archived_at),
        status="active" if project.archived_at is None else "archived",
    )


def admin_key_list(keys: Sequence[ApiKey], *, has_more: bool) -> AdminKeyList:
    """Return a page of the organization's keys."""
    first, last = _ends(keys)
    data = [admin_key_reply(key) for key in keys]
    return AdminKeyList(object="list", data=data, first_id=first, last_id=last, has_more=has_more)


def project_key_list(keys: Sequence[ApiKey], *, has_more: bool) -> ProjectKeyList:
    """Return a page of a project's keys."""
    first, last = _ends(keys)
    data = [project_key_reply(key) for key in keys]
    return ProjectKeyList(object="list", data=data, first_id=first, last_id=last, has_more=has_more)


def project_list(projects: Sequence[Project], *, has_more: bool) -> ProjectList:
    """Return a page of projects."""
    first, last = _ends(projects)
    data = [project_reply(project) for project in projects]
    return ProjectList(object="list", data=data, first_id=first, last_id=last, has_more=has_more)


def _ends(page: Sequence[ApiKey | Project]) -> tuple[str | None, str | None]:
    return (page[0].id, page[-1].id) if page else (None, None)


def _role(key: ApiKey) -> Literal["owner", "member"]:
    return "owner" if "admin" in key.scopes else "member"


def _names(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(moment: datetime | None) -> int | None:
    return None if moment is None else _seconds(moment)
