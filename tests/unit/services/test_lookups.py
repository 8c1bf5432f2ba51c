import asyncio

import pytest

from app.services.lookups import Lookups
from tests.unit.services.fakes import Clock


class Source:
    """A database that answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, str | None] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.fault: Exception | None = None

    async def load(self, key: str) -> str | None:
        self.asked.append(key)
        answer = self.answers.get(key, key.upper())  # as it is when it is asked
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return answer


class Ticking(Clock):
    """A clock that the test moves."""

    time = 0.0

    def monotonic(self) -> float:
        return self.time


async def test_an_answer_is_kept_for_its_time() -> None:
    source, clock = Source(), Ticking()
    lookups = Lookups[str, str](source.load, clock, keep_s=4)
    assert [await lookups.get("a") for _ in range(3)] == ["A"] * 3
    clock.time = 3.9
    assert await lookups.get("a") == "A"
    assert source.asked == ["a"]
    clock.time = 4.0
    source.answers["a"] = "new"
    assert await lookups.get("a") == "new"
    source.answers["a"] = None
    clock.time = 8.0
    assert await lookups.get("a") is None
    assert await lookups.get("a") is None
    assert source.asked == ["a"] * 4  # what does not exist is asked for again


async def test_no_more_than_so_many_are_kept_and_those_used_last() -> None:
    source = Source()
    lookups = Lookups[str, str](source.load, Ticking(), keep_s=4, most=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        await lookups.get(key)
    assert source.asked == ["a", "b", "c", "b"]


async def test_many_who_ask_at_a_time_share_one_question() -> None:
    source = Source()
    source.open.clear()
    lookups = Lookups[str, str](source.load, Ticking(), keep_s=4)
    waiting = [asyncio.create_task(lookups.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # one leaves; the others get their answer
    source.open.set()
    assert await asyncio.gather(*waiting[1:]) == ["A"] * 4
    assert source.asked == ["a"]


async def test_an_error_goes_to_all_who_wait_and_is_not_kept() -> None:
    source = Source()
    source.fault = ConnectionError("away")
    lookups = Lookups[str, str](source.load, Ticking(), keep_s=4)
    results = await asyncio.gather(lookups.get("a"), lookups.get("a"), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError] * 2
    source.fault = None
    assert await lookups.get("a") == "A"


async def test_an_answer_from_before_a_change_is_not_kept() -> None:
    source = Source()
    source.open.clear()
    lookups = Lookups[str, str](source.load, Ticking(), keep_s=4)
    early = asyncio.create_task(lookups.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    lookups.clear()
    source.answers["a"] = "changed"
    late = asyncio.create_task(lookups.get("a"))
    await asyncio.sleep(0)
    source.open.set()
    assert (await early, await late, await lookups.get("a")) == ("A", "changed", "changed")


async def test_closing_ends_what_is_under_way() -> None:
    source = Source()
    source.open.clear()
    lookups = Lookups[str, str](source.load, Ticking(), keep_s=4)
    waiting = asyncio.create_task(lookups.get("a"))
    await asyncio.sleep(0)
    lookups.clear()
    await lookups.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
