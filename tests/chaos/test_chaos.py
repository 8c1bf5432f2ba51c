"""A short storm; `just chaos` has the long one."""

from pathlib import Path

import pytest

from tests.chaos.storm import Plan, Storm


@pytest.mark.crash
async def test_a_short_storm(postgresql_url: str, tmp_path: Path) -> None:
    plan = Plan(seed=7, runs=12, conversations=4, kills=3, freezes=1)
    figures = await Storm(plan, postgresql_url, tmp_path).run()
    # The storm has hit something: what it checks was not checked on calm runs alone.
    assert figures.lost_attempts >= 1
