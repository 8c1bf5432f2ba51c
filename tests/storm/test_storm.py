"""Short storms; `python -m tests.storm` has the long ones."""

from pathlib import Path
from typing import Literal

import pytest

from tests.storm.storm import Plan, Storm


@pytest.mark.crash
@pytest.mark.parametrize("mode", ["spool", "fsync"])
async def test_a_short_storm(sqlite_url: str, tmp_path: Path, mode: Literal["spool", "fsync"]) -> None:
    plan = Plan(1_000, kills=4, seed=7, mode=mode, capture_s=3.0, timeout_ms=1_000)
    figures = await Storm(plan, sqlite_url, tmp_path).run()
    # The storm has hit something: what it checks was not checked on calm processes alone.
    assert min(figures.killed.values()) >= 1
    assert figures.captured == 1_000
    assert figures.refusals >= 1
    assert (figures.cut_bytes > 0) == (mode == "fsync")
