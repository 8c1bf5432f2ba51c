from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.activity import SqlAgentActivity
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.tables import runs
from tests.contract.stores.rows import ANNA, NOON, insert_all, run_row


async def test_no_run_is_no_agent(engine: AsyncEngine) -> None:
    assert await SqlAgentActivity(engine).last_seen() == {}


async def test_the_latest_start_of_every_agent(engine: AsyncEngine) -> None:
    store = SqlConversationStore(engine)
    made = await store.create(ANNA, agent=None, provider="openai", provider_conversation_id=None)
    starts = [("b", 1), ("a", 5), ("a", 3), ("c", 2), ("b", 4)]
    rows = [
        run_row(made, agent=agent, position=position, created_at=NOON + timedelta(minutes=minute))
        for position, (agent, minute) in enumerate(starts, start=1)
    ]
    await insert_all(engine, runs, rows)
    seen = await SqlAgentActivity(engine).last_seen()
    assert seen == {agent: NOON + timedelta(minutes=minute) for agent, minute in (("a", 5), ("b", 4), ("c", 2))}
