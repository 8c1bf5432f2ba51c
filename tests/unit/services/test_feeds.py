import asyncio

import pytest

from app.domain.errors import LeaseLost
from app.domain.models.events import RunCancelled, SequencedEvent, TextDelta
from app.domain.models.usage import TokenUsage
from app.services.feeds import FEW_READERS, KEPT_EVENTS, RunFeed


def delta(text: str) -> TextDelta:
    return TextDelta(text, "msg")


def terminal(number: int) -> SequencedEvent:
    return SequencedEvent(number, RunCancelled("run", "conv", "user", "", TokenUsage(), None, 0))


async def read(feed: RunFeed, after: int = 0, *, recorded_only: bool = False) -> list[int]:
    batches = feed.read(after, recorded_only=recorded_only)
    return [event.sequence async for batch in batches for event in batch.events]


async def wakings(feed: RunFeed, seen: list[list[int]], *, recorded_only: bool) -> None:
    async for batch in feed.read(recorded_only=recorded_only):
        numbers = [event.sequence for event in batch.events]
        seen.append(numbers)


async def test_every_reader_gets_every_event_whenever_it_comes() -> None:
    feed = RunFeed()
    feed.publish(delta("a"))
    early = asyncio.create_task(read(feed))
    await asyncio.sleep(0)
    feed.publish(delta("b"))
    late = asyncio.create_task(read(feed, after=1))
    await asyncio.sleep(0)
    feed.publish(delta("c"))
    feed.close(terminal(4))
    assert await early == [1, 2, 3, 4]
    assert await late == [2, 3, 4]
    assert await read(feed, after=3) == [4]
    await feed.wait()


async def test_a_reader_that_leaves_or_never_reads_holds_up_nothing() -> None:
    feed = RunFeed()
    leaving = feed.read()
    feed.publish(delta("a"))
    assert [event.sequence for event in (await anext(leaving)).events] == [1]
    await leaving.aclose()
    for _ in range(1000):
        feed.publish(delta("x"))
    feed.close(terminal(1002))
    assert len(await read(feed)) == 1002


async def test_events_that_came_together_are_read_together() -> None:
    feed = RunFeed()
    reading = feed.read()
    for text in "abc":
        feed.publish(delta(text))
    assert len((await anext(reading)).events) == 3
    await reading.aclose()


async def test_a_feed_that_failed_raises_after_its_events() -> None:
    feed = RunFeed()
    feed.publish(delta("a"))
    seen = []
    reading = asyncio.create_task(feed.wait())
    await asyncio.sleep(0)
    feed.fail(LeaseLost("gone"))
    with pytest.raises(LeaseLost):
        async for batch in feed.read():
            seen += batch.events
    assert len(seen) == 1
    with pytest.raises(LeaseLost):
        await reading


async def test_a_cancelled_reader_is_forgotten() -> None:
    feed = RunFeed()
    reading = asyncio.create_task(read(feed))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    feed.publish(delta("a"))
    feed.close(terminal(2))
    assert await read(feed) == [1, 2]


async def test_a_reader_is_told_how_far_the_record_goes() -> None:
    feed = RunFeed(last_sequence=7)
    reading = feed.read(7)
    feed.publish(delta("a"))
    feed.publish(delta("b"))
    early = await anext(reading)
    assert ([one.sequence for one in early.events], early.recorded) == ([8, 9], 7)
    feed.mark_recorded(9)
    confirmed = await anext(reading)
    assert (confirmed.events, confirmed.recorded) == ([], 9)
    feed.publish(delta("c"))
    feed.mark_recorded(10)
    both = await anext(reading)
    assert ([one.sequence for one in both.events], both.recorded) == ([10], 10)
    await reading.aclose()


async def test_what_is_recorded_leaves_the_memory_and_a_reader_that_is_behind_stops() -> None:
    feed = RunFeed()
    slow = feed.read()
    feed.publish(delta("first"))
    assert len((await anext(slow)).events) == 1
    for _ in range(2 * KEPT_EVENTS):
        feed.publish(delta("x"))
    feed.mark_recorded(feed.last_sequence)
    assert not feed.holds(1)
    assert feed.holds(feed.last_sequence - KEPT_EVENTS)
    assert [batch async for batch in slow] == []  # it goes on with the log
    assert [one.sequence for one in feed.since(feed.last_sequence - 1)] == [2 * KEPT_EVENTS + 1]


async def test_many_readers_are_woken_together() -> None:
    feed = RunFeed()
    readers = [asyncio.create_task(read(feed)) for _ in range(FEW_READERS + 1)]
    await asyncio.sleep(0)
    for text in "abc":
        feed.publish(delta(text))
    feed.close(terminal(4))
    assert await asyncio.gather(*readers) == [[1, 2, 3, 4]] * len(readers)


async def test_a_reader_that_was_told_more_than_there_is_begins_where_the_attempt_does() -> None:
    feed = RunFeed(10)
    feed.publish(delta("new"))
    reading = feed.read(25)
    batch = await anext(reading)
    assert [one.sequence for one in batch.events] == [11]
    await reading.aclose()


async def test_a_reader_of_the_record_is_told_nothing_early_and_sleeps_meanwhile() -> None:
    feed = RunFeed()
    seen: list[list[int]] = []
    reading = asyncio.create_task(wakings(feed, seen, recorded_only=True))
    for _ in range(50):
        feed.publish(delta("x"))
        await asyncio.sleep(0)
    assert seen == []
    feed.mark_recorded(20)
    await asyncio.sleep(0)
    assert seen == [list(range(1, 21))]
    feed.mark_recorded(50)
    await asyncio.sleep(0)
    feed.publish(delta("y"))
    feed.close(terminal(52))
    await reading
    assert seen == [list(range(1, 21)), list(range(21, 51)), [51, 52]]


async def test_a_delta_wakes_no_reader_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[int] = []
    feed = RunFeed()
    wake = feed._record_readers.wake
    monkeypatch.setattr(feed._record_readers, "wake", lambda: (woken.append(feed.last_sequence), wake()))
    reading = asyncio.create_task(read(feed, recorded_only=True))
    await asyncio.sleep(0)
    for _ in range(20):
        feed.publish(delta("x"))
        await asyncio.sleep(0)
    assert woken == []
    feed.mark_recorded(20)
    assert woken == [20]
    feed.close(terminal(21))
    assert await reading == list(range(1, 22))


@pytest.mark.parametrize("recorded_only", [False, True])
async def test_what_failed_before_it_was_on_disk_reaches_no_reader_of_the_record(recorded_only: bool) -> None:
    feed = RunFeed()
    seen: list[list[int]] = []
    reading = asyncio.create_task(wakings(feed, seen, recorded_only=recorded_only))
    for text in "ab":
        feed.publish(delta(text))
    feed.mark_recorded(1)
    await asyncio.sleep(0)
    feed.fail(LeaseLost("gone"))
    with pytest.raises(LeaseLost):
        await reading
    assert [number for numbers in seen for number in numbers] == ([1] if recorded_only else [1, 2])


async def test_a_reader_of_the_record_that_is_ahead_of_this_process_is_told_nothing_twice() -> None:
    feed = RunFeed(10)
    feed.publish(delta("new"))
    reading = asyncio.create_task(read(feed, after=12, recorded_only=True))
    await asyncio.sleep(0)
    feed.mark_recorded(11)
    feed.publish(delta("newer"))
    feed.mark_recorded(12)
    feed.publish(delta("newest"))
    feed.close(terminal(14))
    assert await reading == [13, 14]


async def test_many_readers_of_the_record_are_woken_together() -> None:
    feed = RunFeed()
    readers = [asyncio.create_task(read(feed, recorded_only=True)) for _ in range(FEW_READERS + 1)]
    await asyncio.sleep(0)
    for number in (1, 2):
        feed.publish(delta("x"))
        feed.mark_recorded(number)
    feed.close(terminal(3))
    assert await asyncio.gather(*readers) == [[1, 2, 3]] * len(readers)


async def test_a_reader_of_the_record_that_is_behind_stops_too() -> None:
    feed = RunFeed()
    slow = feed.read(recorded_only=True)
    feed.publish(delta("first"))
    feed.mark_recorded(1)
    assert len((await anext(slow)).events) == 1
    for _ in range(2 * KEPT_EVENTS):
        feed.publish(delta("x"))
    feed.mark_recorded(feed.last_sequence)
    assert [batch async for batch in slow] == []  # it goes on with the log
