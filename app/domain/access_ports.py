"""What keys and tenants need from outside; `tests/contract/access` runs one suite over the adapters."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from app.domain.models.access import ApiKey, KeyPage, Project, Refusal, TokenIdentity


class AccessStore(Protocol):
    """Organizations, projects and keys. An id of another organization is one that does not exist."""

    async def key_by_hash(self, secret_hash: str) -> ApiKey | None:
        """Return the key whose secret has this SHA-256, in hex: also an expired or revoked one; None: there is none."""
        ...

    async def has_keys(self) -> bool:
        """Tell whether any organization has a key that was not revoked; an expired one counts."""
        ...

    async def has_active_keys(self, now: datetime) -> bool:
        """Tell whether any organization has a key that requests can be made with."""
        ...

    async def add_key(self, key: ApiKey, secret_hash: str) -> bool:
        """Keep a new key; its organization is made when it is the first of it.

        Returns False, and writes nothing, when its project does not exist in the organization or is archived.
        """
        ...

    async def keys(self, organization_id: str | None, page: KeyPage) -> tuple[Sequence[ApiKey], bool]:
        """Return keys and whether there are more; None: of all organizations."""
        ...

    async def key(self, organization_id: str | None, key_id: str) -> ApiKey | None:
        """Return a key, revoked ones included; None: it does not exist. Without an organization: whosever it is."""
        ...

    async def revoke_key(self, organization_id: str | None, key_id: str, now: datetime) -> ApiKey | None:
        """Revoke a key for good; one that was revoked keeps its time.

        Returns it as it is now; None: it does not exist.
        """
        ...

    async def record_use(self, last_used: Mapping[str, datetime]) -> None:
        """Keep when keys were last used, by their ids; never sets a time back."""
        ...

    async def add_project(self, project: Project) -> None:
        """Keep a new project; its organization is made when it is the first of it."""
        ...

    async def projects(
        self, organization_id: str, *, limit: int, after: str | None, archived: bool
    ) -> tuple[Sequence[Project], bool]:
        """Return projects in the order of their creation and whether there are more; `archived`: also closed ones."""
        ...

    async def project(self, organization_id: str, project_id: str) -> Project | None:
        """Return a project; None: it does not exist."""
        ...

    async def rename_project(self, organization_id: str, project_id: str, name: str) -> Project | None:
        """Give an open project another name.

        Returns it as it is now, an archived one unchanged; None: it does not exist.
        """
        ...

    async def archive_project(self, organization_id: str, project_id: str, now: datetime) -> Project | None:
        """Close a project for good and revoke its keys, both or neither; one that was closed keeps its time.

        Returns it as it is now; None: it does not exist.
        """
        ...


class TokenVerifier(Protocol):
    """Judges tokens of an identity provider."""

    async def identity(self, token: str) -> TokenIdentity | Refusal:
        """Return whom a token speaks for, or why it is refused: `unknown`, `expired` or `issuer_away`."""
        ...

    async def aclose(self) -> None:
        """Close connections to the identity provider."""
        ...
