"""Fixtures of the journal's contract."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.journal import SqlRunJournal


@pytest.fixture
def journal(engine: AsyncEngine) -> SqlRunJournal:
    """A journal whose leases no test outlives; `expire` ends one."""
    return SqlRunJournal(engine, lease_s=30)
