"""The revision that accounts usage to projects and keys: rows come through it both ways."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.engine import reading, writing
from tests.migrations.commands import ACCOUNTS, SEARCH, down, up

COLUMNS = "run_id, step, organization_id, conversation_id, agent, model, input_tokens, cost_usd, latency_ms"
OF_A_RUN = (
    "INSERT INTO agent_run_usage (run_id, step, organization_id, conversation_id, agent, model, outcome, accuracy,"
    " requests, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, latency_ms,"
    " created_at) VALUES ('run_1', '/m1', 'acme', 'conv_1', 'scribe', 'm', 'success', 'exact', 1, 2, 0, 0, 3, 0,"
    " '0.0000000001', 5, CURRENT_TIMESTAMP)"
)
OF_NO_RUN = (
    "INSERT INTO agent_run_usage (run_id, step, organization_id, agent, model, outcome, accuracy, requests,"
    " input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, latency_ms, created_at,"
    " endpoint, http_status, project_id, api_key_id) VALUES ('req_1', '/embeddings', 'acme', '', 'm', 'success',"
    " 'exact', 1, 2, 0, 0, 3, 0, 5, CURRENT_TIMESTAMP, 'embeddings', 200, 'proj_1', 'key_1')"
)


async def _execute(engine: AsyncEngine, statement: str) -> None:
    async with writing(engine) as connection:
        await connection.execute(text(statement))


async def _rows(engine: AsyncEngine, statement: str) -> list[tuple[Any, ...]]:
    async with reading(engine) as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def test_what_runs_used_survives_up_down_and_up(engine: AsyncEngine) -> None:
    await up(engine, SEARCH)
    await _execute(engine, OF_A_RUN)
    before = await _rows(engine, f"SELECT {COLUMNS} FROM agent_run_usage")
    for move in (up, down, up):
        await move(engine, ACCOUNTS if move is up else SEARCH)
        assert await _rows(engine, f"SELECT {COLUMNS} FROM agent_run_usage") == before
    added = "SELECT project_id, api_key_id, endpoint, http_status FROM agent_run_usage"
    assert await _rows(engine, added) == [(None, None, "run", None)]


async def test_the_release_before_can_write(engine: AsyncEngine) -> None:
    await up(engine, ACCOUNTS)
    await _execute(engine, OF_A_RUN)
    assert await _rows(engine, "SELECT endpoint FROM agent_run_usage") == [("run",)]


async def test_a_call_of_no_conversation_stays_on_the_bill(engine: AsyncEngine) -> None:
    await up(engine, ACCOUNTS)
    await _execute(engine, OF_NO_RUN)
    await down(engine, SEARCH)
    kept = "SELECT run_id, conversation_id, input_tokens FROM agent_run_usage"
    assert await _rows(engine, kept) == [("req_1", "", 2)]
