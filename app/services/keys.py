"""Keys and projects of an organization: made, listed, revoked."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final

from app.domain.access_ports import AccessStore
from app.domain.errors import InvalidInput, UnknownAgent
from app.domain.identifiers import check_organization, new_key_id, new_key_secret, new_project_id
from app.domain.models.access import ALL_SCOPES, ApiKey, IssuedKey, KeyPage, NewKey, Project
from app.domain.ports import AgentProvider, Clock

MAX_NAME_CHARS: Final = 255
MAX_LISTED: Final = 100
MAX_LIFETIME_S: Final = 100 * 365 * 86_400.0
MAX_NAMES: Final = 1_000
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class KeyService:
    """Administers keys and projects. An id of another organization is one that does not exist: None."""

    def __init__(
        self, store: AccessStore, provider: AgentProvider, clock: Clock, *, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called when a key was made or revoked here: those who remember keys must ask again."""
        self._store: Final = store
        self._provider: Final = provider
        self._clock: Final = clock
        self._on_change: Final = on_change

    async def create(self, new: NewKey) -> IssuedKey:
        """Make a key; its secret is told here and never again.

        Raises:
            InvalidInput: `param` names the field that is wrong; `project_id` is also wrong when it is no open project,
                and `agents` when there is no such agent.
        """
        check_organization(new.organization_id)
        _check_text(new.name, "name")
        if new.user_id is not None:
            _check_text(new.user_id, "user_id")
        now = self._clock.now()
        secret = new_key_secret()
        key = ApiKey(
            id=new_key_id(),
            organization_id=new.organization_id,
            project_id=new.project_id,
            user_id=new.user_id,
            name=new.name,
            redacted=f"{secret[:7]}...{secret[-4:]}",
            scopes=_checked_scopes(new.scopes),
            agents=self._checked_agents(new.agents),
            models=_checked_models(new.models),
            created_at=now,
            expires_at=None if new.lifetime_s is None else now + _lifetime(new.lifetime_s),
            revoked_at=None,
            last_used_at=None,
        )
        if not await self._store.add_key(key, hashlib.sha256(secret.encode()).hexdigest()):
            raise InvalidInput("There is no such open project in the organization.", param="project_id")
        self._on_change()
        return IssuedKey(key, secret)

    async def list(self, organization_id: str | None, page: KeyPage) -> tuple[Sequence[ApiKey], bool]:
        """Return keys in the order of their creation, and whether there are more; None: of all organizations.

        Raises:
            InvalidInput: the limit is not 1 to 100.
        """
        _check_limit(page.limit)
        return await self._store.keys(organization_id, page)

    async def get(self, organization_id: str | None, key_id: str) -> ApiKey | None:
        """Return a key that was not revoked; None: there is none."""
        key = await self._store.key(organization_id, key_id)
        return None if key is None or key.revoked_at is not None else key

    async def revoke(self, organization_id: str | None, key_id: str) -> ApiKey | None:
        """Revoke a key for good: other processes refuse it within five seconds, this one does at once.

        Returns it; None: it does not exist.
        """
        key = await self._store.revoke_key(organization_id, key_id, self._clock.now())
        self._on_change()
        return key

    async def create_project(self, organization_id: str, name: str) -> Project:
        """Open a project.

        Raises:
            InvalidInput: the organization or the name is malformed.
        """
        check_organization(organization_id)
        _check_text(name, "name")
        project = Project(new_project_id(), organization_id, name, self._clock.now(), None)
        await self._store.add_project(project)
        return project

    async def projects(
        self, organization_id: str, *, limit: int = 20, after: str | None = None, archived: bool = False
    ) -> tuple[Sequence[Project], bool]:
        """Return projects in the order of their creation, and whether there are more; `archived`: also closed ones.

        Raises:
            InvalidInput: the limit is not 1 to 100.
        """
        _check_limit(limit)
        return await self._store.projects(organization_id, limit=limit, after=after, archived=archived)

    async def project(self, organization_id: str, project_id: str) -> Project | None:
        """Return a project; None: it does not exist."""
        return await self._store.project(organization_id, project_id)

    async def rename_project(self, organization_id: str, project_id: str, name: str) -> Project | None:
        """Give a project another name and return it; None: it does not exist.

        Raises:
            InvalidInput: the name is malformed, or the project is archived.
        """
        _check_text(name, "name")
        project = await self._store.rename_project(organization_id, project_id, name)
        if project is not None and project.archived_at is not None:
            raise InvalidInput("The project is archived and cannot be changed.", param="project_id")
        return project

    async def archive_project(self, organization_id: str, project_id: str) -> Project | None:
        """Close a project for good and revoke its keys; returns it, None: it does not exist."""
        project = await self._store.archive_project(organization_id, project_id, self._clock.now())
        self._on_change()
        return project

    def _checked_agents(self, agents: Iterable[str] | None) -> frozenset[str] | None:
        if agents is None:
            return None
        try:
            return _checked_names((self._provider.agent(key).key for key in agents), "agents")
        except UnknownAgent as error:
            raise InvalidInput(error.public_message, param="agents") from error


def _checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    found = frozenset(scopes)
    if not found or found - ALL_SCOPES:
        raise InvalidInput(f"Scopes are one or more of: {', '.join(sorted(ALL_SCOPES))}.", param="scopes")
    return found


def _checked_models(models: Iterable[str] | None) -> frozenset[str] | None:
    if models is None:
        return None
    names = _checked_names(models, "models")
    for name in names:
        _check_text(name, "models")
    return names


def _checked_names(names: Iterable[str], param: str) -> frozenset[str]:
    found = frozenset(names)
    if not 1 <= len(found) <= MAX_NAMES:
        raise InvalidInput(f"'{param}' names 1 to {MAX_NAMES}; leave it out to allow all.", param=param)
    return found


def _lifetime(lifetime_s: float) -> timedelta:
    if not math.isfinite(lifetime_s) or not 1 <= lifetime_s <= MAX_LIFETIME_S:
        raise InvalidInput("A key lives for a second at least, and for 100 years at most.", param="expires_in_seconds")
    return timedelta(seconds=lifetime_s)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LISTED:
        raise InvalidInput(f"A page has 1 to {MAX_LISTED} entries.", param="limit")


def _check_text(text: str, param: str) -> None:
    if not 1 <= len(text) <= MAX_NAME_CHARS or _UNPRINTABLE.search(text):
        raise InvalidInput(f"'{param}' is 1 to {MAX_NAME_CHARS} printable characters.", param=param)
