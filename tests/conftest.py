"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest
import structlog

pytest_plugins = ["tests.databases"]


@pytest.fixture(autouse=True)
def logs_as_at_start() -> Iterator[None]:
    """Undo what a test set up for the whole process's logs."""
    yield
    structlog.reset_defaults()
