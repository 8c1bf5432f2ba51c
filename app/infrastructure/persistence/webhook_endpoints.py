"""Webhook endpoints of tenants in our tables."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.deliveries import WebhookEndpoint
from app.infrastructure.persistence.completion_tables import webhook_endpoints as endpoints
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist


class SqlWebhookEndpointStore:
    """WebhookEndpointStore over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def add(self, endpoint: WebhookEndpoint) -> None:
        """Keep a new endpoint; see the port."""
        async with writing(self._engine) as connection:
            await connection.execute(insert(endpoints), _values(endpoint))

    async def get(self, organization_id: str, endpoint_id: str) -> WebhookEndpoint | None:
        """Return an endpoint; see the port."""
        if not can_exist(endpoint_id):
            return None
        mine = (endpoints.c.organization_id == organization_id, endpoints.c.id == endpoint_id)
        async with reading(self._engine) as connection:
            row = (await connection.execute(select(endpoints).where(*mine))).one_or_none()
        return None if row is None else _endpoint(row)

    async def list(
        self, organization_id: str | None, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[WebhookEndpoint], bool]:
        """Return endpoints, the newest first; see the port."""
        if after is not None and not can_exist(after):
            return [], False
        statement = select(endpoints)
        if organization_id is not None:
            statement = statement.where(endpoints.c.organization_id == organization_id)
        if after is not None:
            statement = statement.where(endpoints.c.id < after)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement.order_by(endpoints.c.id.desc()).limit(limit + 1))).all()
        return [_endpoint(row) for row in rows[:limit]], len(rows) > limit

    async def save(self, endpoint: WebhookEndpoint) -> bool:
        """Write an endpoint over the one with its id; see the port."""
        mine = (endpoints.c.organization_id == endpoint.organization_id, endpoints.c.id == endpoint.id)
        async with writing(self._engine) as connection:
            return (await connection.execute(update(endpoints).where(*mine).values(_values(endpoint)))).rowcount == 1

    async def delete(self, organization_id: str, endpoint_id: str) -> bool:
        """Delete an endpoint; see the port."""
        if not can_exist(endpoint_id):
            return False
        mine = (endpoints.c.organization_id == organization_id, endpoints.c.id == endpoint_id)
        async with writing(self._engine) as connection:
            return (await connection.execute(delete(endpoints).where(*mine))).rowcount == 1


def _values(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "organization_id": endpoint.organization_id,
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "secret": endpoint.secret,
        "previous_secret": endpoint.previous_secret,
        "previous_secret_until": endpoint.previous_secret_until,
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


def _endpoint(row: Row[Any]) -> WebhookEndpoint:
    return WebhookEndpoint(
        id=row.id,
        organization_id=row.organization_id,
        name=row.name,
        url=row.url,
        event_types=tuple(row.event_types),
        secret=row.secret,
        previous_secret=row.previous_secret,
        previous_secret_until=row.previous_secret_until,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
