"""What a killed server loses of the calls that it has passed on: nothing, when records come before replies."""

import json
import sqlite3
from contextlib import closing

import pytest

from tests.cli.programs import Program
from tests.cli.test_serve import posted, serving
from tests.fakes.openai import FakeOpenAI

CALLS = 12


def rows_of(program: Program) -> int:
    """Count the calls in the database, as the killed process left it."""
    with closing(sqlite3.connect(program.folder / "cli.db")) as connection:
        (usage,) = connection.execute("SELECT count(*) FROM agent_run_usage").fetchone()
        (both,) = connection.execute(
            "SELECT count(*) FROM agent_run_usage u JOIN completion_events e ON e.run_id = u.run_id"
        ).fetchone()
    assert usage == both
    return int(usage)


@pytest.mark.crash
@pytest.mark.parametrize(("record", "kept"), [("before_reply", CALLS), ("batched", 0)])
def test_a_kill_right_after_the_last_reply(program: Program, record: str, kept: int) -> None:
    with FakeOpenAI() as fake:
        environment = {
            "OPENAI_API_KEY": fake.api_key,
            "OPENAI_BASE_URL": fake.base_url,
            "APP_GATEWAY_MODELS": "text-embedding-*",
            "APP_GATEWAY_RECORD": record,
            "APP_GATEWAY_FLUSH_MS": "10000",
        }
        with serving(program, **environment) as (process, address):
            for _ in range(CALLS):
                asked = {"model": "text-embedding-3-small", "input": "one two", "dimensions": 4}
                with posted(address, "/v1/embeddings", asked) as reply:
                    assert reply.status == 200
                    assert json.load(reply)["usage"]["prompt_tokens"] == 2
            process.kill()
            process.wait()
    # A batch that was not written yet is what a kill may take: here, all calls of the last ten seconds.
    assert rows_of(program) == kept
