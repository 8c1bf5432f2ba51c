"""The session that a run writes to in memory."""

import copy
from typing import Any

import pytest
from agents import Session
from agents.memory.session import _session_accepts_wrapper

from app.infrastructure.providers.openai.buffered_session import BufferedSession
from tests.contract.session_store.conftest import contents, user


@pytest.fixture
def session() -> BufferedSession:
    return BufferedSession("conv_1", (user("1"), user("2"), user("3")))


def test_it_is_a_session_that_does_not_ask_for_the_wrapper(session: BufferedSession) -> None:
    """The SDK looks at the signatures at every call; the first one tells it enough."""
    assert isinstance(session, Session)
    assert not _session_accepts_wrapper(session)
    assert session.session_id == "conv_1"
    assert session.session_settings is None


async def test_it_begins_with_the_history_and_nothing_added(session: BufferedSession) -> None:
    assert contents(await session.get_items()) == ["1", "2", "3"]
    assert session.added == ()
    assert session.removed_from_history == 0


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, "12345"), (9, "12345"), (5, "12345"), (4, "2345"), (2, "45"), (1, "5"), (0, ""), (-1, ""), (-(2**70), "")],
)
async def test_it_gives_the_latest_of_both(session: BufferedSession, limit: int | None, expected: str) -> None:
    await session.add_items([user("4")])
    await session.add_items([user("5")])
    assert contents(await session.get_items(limit)) == list(expected)


async def test_it_takes_back_its_own_items_first_and_then_the_history(session: BufferedSession) -> None:
    await session.add_items([user("4")])

    assert await session.pop_item() == user("4")
    assert (session.added, session.removed_from_history) == ((), 0)
    assert await session.pop_item() == user("3")
    assert await session.pop_item() == user("2")
    assert session.removed_from_history == 2
    await session.add_items([user("5")])
    assert contents(await session.get_items()) == ["1", "5"]
    assert contents(await session.get_items(1)) == ["5"]
    assert (session.added, session.removed_from_history) == ((user("5"),), 2)
    assert [await session.pop_item() for _ in range(3)] == [user("5"), user("1"), None]
    assert session.removed_from_history == 3


async def test_clearing_takes_everything_back(session: BufferedSession) -> None:
    await session.add_items([user("4")])
    await session.clear_session()

    assert await session.get_items() == []
    assert await session.pop_item() is None
    assert (session.added, session.removed_from_history) == ((), 3)
    await session.add_items([user("5")])
    assert contents(await session.get_items(2)) == ["5"]


async def test_what_is_added_is_out_of_everyones_reach() -> None:
    session = BufferedSession("x", [])
    item: Any = {"role": "user", "content": [{"type": "input_text", "text": "as it was"}]}
    expected = copy.deepcopy(item)
    await session.add_items([item])

    item["content"][0]["text"] = "changed by the writer"
    (await session.get_items())[0]["content"][0]["text"] = "changed by a reader"
    session.added[0]["content"].clear()

    assert session.added == (expected,)
    assert await session.get_items() == [expected]


async def test_the_list_and_what_is_popped_belong_to_the_reader() -> None:
    history: Any = [{"role": "user", "content": [{"type": "input_text", "text": "as it was"}]}, user("2")]
    session = BufferedSession("x", history)
    (await session.get_items()).clear()
    await session.pop_item()
    popped: Any = await session.pop_item()
    popped["content"].clear()

    assert history == [{"role": "user", "content": [{"type": "input_text", "text": "as it was"}]}, user("2")]


async def test_a_long_history_is_not_copied() -> None:
    history = [user(str(number)) for number in range(1000)]
    items = await BufferedSession("x", history).get_items()
    assert items is not history
    assert all(ours is theirs for ours, theirs in zip(items, history, strict=True))
