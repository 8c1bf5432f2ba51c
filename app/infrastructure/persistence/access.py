"""Keys and tenants in our tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, Table, bindparam, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.models.access import ApiKey, KeyPage, Project
from app.infrastructure.persistence.access_tables import api_keys, organizations, projects
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist

_KEY_COLUMNS: Final = [column for column in api_keys.c if column.name != "secret_hash"]


class SqlAccessStore:
    """AccessStore over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def key_by_hash(self, secret_hash: str) -> ApiKey | None:
        """Return the key with this hash; see the port."""
        row = await self._one(select(*_KEY_COLUMNS).where(api_keys.c.secret_hash == secret_hash))
        return None if row is None else _key(row)

    async def has_keys(self) -> bool:
        """Tell whether there are keys; see the port."""
        return await self._any(api_keys.c.revoked_at.is_(None))

    async def has_active_keys(self, now: datetime) -> bool:
        """Tell whether there are keys that can be used; see the port."""
        return await self._any(
            api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
        )

    async def add_key(self, key: ApiKey, secret_hash: str) -> bool:
        """Keep a new key; see the port."""
        async with writing(self._engine) as connection:
            if key.project_id is not None:
                # Locked: a project that is being archived would miss this key when it revokes its others.
                found = _project_of(key.organization_id, key.project_id).with_for_update()
                row = (await connection.execute(found)).one_or_none()
                if row is None or row.archived_at is not None:
                    return False
            await self._ensure_organization(connection, key.organization_id, key.created_at)
            await connection.execute(api_keys.insert(), _key_values(key) | {"secret_hash": secret_hash})
        return True

    async def keys(self, organization_id: str | None, page: KeyPage) -> tuple[Sequence[ApiKey], bool]:
        """Return a page of keys; see the port."""
        if page.after is not None and not can_exist(page.after):
            return [], False
        statement = select(*_KEY_COLUMNS)
        if organization_id is not None:
            statement = statement.where(api_keys.c.organization_id == organization_id)
        if page.project_id is not None:
            statement = statement.where(api_keys.c.project_id == page.project_id)
        if page.unassigned:
            statement = statement.where(api_keys.c.project_id.is_(None))
        if not page.revoked:
            statement = statement.where(api_keys.c.revoked_at.is_(None))
        rows, more = await self._page(
            statement, api_keys, limit=page.limit, after=page.after, descending=page.newest_first
        )
        return [_key(row) for row in rows], more

    async def key(self, organization_id: str | None, key_id: str) -> ApiKey | None:
        """Return a key; see the port."""
        if not can_exist(key_id):
            return None
        row = await self._one(select(*_KEY_COLUMNS).where(*_key_is(organization_id, key_id)))
        return None if row is None else _key(row)

    async def revoke_key(self, organization_id: str | None, key_id: str, now: datetime) -> ApiKey | None:
        """Revoke a key; see the port."""
        if not can_exist(key_id):
            return None
        statement = (
            update(api_keys)
            .where(*_key_is(organization_id, key_id))
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, bindparam("now", now, api_keys.c.revoked_at.type)))
            .returning(*_KEY_COLUMNS)
        )
        row = await self._changed(statement)
        return None if row is None else _key(row)

    async def record_use(self, last_used: Mapping[str, datetime]) -> None:
        """Keep when keys were last used; see the port."""
        if not last_used:
            return
        used, is_older = bindparam("used", type_=api_keys.c.last_used_at.type), api_keys.c.last_used_at
        statement = (
            update(api_keys)
            .where(api_keys.c.id == bindparam("key_id"), or_(is_older.is_(None), is_older < used))
            .values(last_used_at=used)
        )
        async with writing(self._engine) as connection:
            # In one order everywhere, so that two processes cannot lock each other's rows out.
            rows = [{"key_id": key_id, "used": at} for key_id, at in sorted(last_used.items())]
            await connection.execute(statement, rows)

    async def add_project(self, project: Project) -> None:
        """Keep a new project; see the port."""
        values = {
            "id": project.id,
            "organization_id": project.organization_id,
            "name": project.name,
            "created_at": project.created_at,
            "archived_at": project.archived_at,
        }
        async with writing(self._engine) as connection:
            await self._ensure_organization(connection, project.organization_id, project.created_at)
            await connection.execute(projects.insert(), values)

    async def projects(
        self, organization_id: str, *, limit: int, after: str | None, archived: bool
    ) -> tuple[Sequence[Project], bool]:
        """Return a page of projects; see the port."""
        if after is not None and not can_exist(after):
            return [], False
        statement = select(projects).where(projects.c.organization_id == organization_id)
        if not archived:
            statement = statement.where(projects.c.archived_at.is_(None))
        rows, more = await self._page(statement, projects, limit=limit, after=after, descending=False)
        return [_project(row) for row in rows], more

    async def project(self, organization_id: str, project_id: str) -> Project | None:
        """Return a project; see the port."""
        if not can_exist(project_id):
            return None
        row = await self._one(_project_of(organization_id, project_id))
        return None if row is None else _project(row)

    async def rename_project(self, organization_id: str, project_id: str, name: str) -> Project | None:
        """Rename a project; see the port."""
        if not can_exist(project_id):
            return None
        statement = (
            update(projects)
            .where(*_project_is(organization_id, project_id), projects.c.archived_at.is_(None))
            .values(name=name)
            .returning(projects)
        )
        row = await self._changed(statement)
        return await self.project(organization_id, project_id) if row is None else _project(row)

    async def archive_project(self, organization_id: str, project_id: str, now: datetime) -> Project | None:
        """Close a project; see the port."""
        if not can_exist(project_id):
            return None
        async with writing(self._engine) as connection:
            found = _project_of(organization_id, project_id).with_for_update()
            row = (await connection.execute(found)).one_or_none()
            if row is None or row.archived_at is not None:
                return None if row is None else _project(row)
            closed = update(projects).where(projects.c.id == project_id).values(archived_at=now).returning(projects)
            row = (await connection.execute(closed)).one()
            await connection.execute(
                update(api_keys)
                .where(api_keys.c.project_id == project_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=now)
            )
        return _project(row)

    async def _one(self, statement: Select[Any]) -> Row[Any] | None:
        async with reading(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none()

    async def _changed(self, statement: Any) -> Row[Any] | None:
        async with writing(self._engine) as connection:
            return (await connection.execute(statement)).one_or_none()

    async def _any(self, *conditions: ColumnElement[bool]) -> bool:
        async with reading(self._engine) as connection:
            found = await connection.execute(select(api_keys.c.id).where(*conditions).limit(1))
            return found.first() is not None

    async def _page(
        self, statement: Select[Any], table: Table, *, limit: int, after: str | None, descending: bool
    ) -> tuple[Sequence[Row[Any]], bool]:
        """Return rows in the order of their ids, which is that of their creation."""
        key = table.c.id
        if after is not None:
            statement = statement.where(key < after if descending else key > after)
        statement = statement.order_by(key.desc() if descending else key).limit(limit + 1)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return rows[:limit], len(rows) > limit

    async def _ensure_organization(self, connection: AsyncConnection, organization_id: str, now: datetime) -> None:
        insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        statement = insert(organizations).on_conflict_do_nothing(index_elements=["id"])
        await connection.execute(statement, {"id": organization_id, "name": organization_id, "created_at": now})


def _key_is(organization_id: str | None, key_id: str) -> list[ColumnElement[bool]]:
    conditions = [api_keys.c.id == key_id]
    return conditions if organization_id is None else [*conditions, api_keys.c.organization_id == organization_id]


def _project_is(organization_id: str, project_id: str) -> list[ColumnElement[bool]]:
    return [projects.c.id == project_id, projects.c.organization_id == organization_id]


def _project_of(organization_id: str, project_id: str) -> Select[Any]:
    return select(projects).where(*_project_is(organization_id, project_id))


def _key_values(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "organization_id": key.organization_id,
        "project_id": key.project_id,
        "user_id": key.user_id,
        "name": key.name,
        "redacted": key.redacted,
        "scopes": sorted(key.scopes),
        "agents": None if key.agents is None else sorted(key.agents),
        "models": None if key.models is None else sorted(key.models),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        user_id=row.user_id,
        name=row.name,
        redacted=row.redacted,
        scopes=frozenset(row.scopes),
        agents=None if row.agents is None else frozenset(row.agents),
        models=None if row.models is None else frozenset(row.models),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _project(row: Row[Any]) -> Project:
    return Project(row.id, row.organization_id, row.name, row.created_at, row.archived_at)
