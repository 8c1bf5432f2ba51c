"""Fixtures for all tests."""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog

pytest_plugins = ["tests.databases"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put the operation back into the id of a test that schemathesis has made: pytest 9.2 no longer takes it over."""
    label = getattr(item, "operation_label", None)
    if label is not None and item.id.params is None:
        item._id = item.id.with_params(label)  # it cannot be said in any other way


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests of the same id: of those, a run over several processes silently takes one only."""
    doubled = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if doubled:
        raise pytest.UsageError(f"{len(doubled)} test ids are not unique: {doubled[:3]}")


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
