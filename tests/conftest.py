"""Fixtures for all tests."""

import os
from collections.abc import Iterator

import pytest
import structlog

pytest_plugins = ["tests.databases"]


@pytest.fixture(autouse=True)
def logs_as_at_start() -> Iterator[None]:
    """Undo what a test set up for the whole process's logs."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def environment_as_at_start() -> Iterator[None]:
    """Undo what a test left in the environment: `serve`, called in this process, puts its options there."""
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ} - {"PYTEST_CURRENT_TEST"}:
        if name not in before:
            del os.environ[name]
        elif os.environ.get(name) != before[name]:
            os.environ[name] = before[name]
