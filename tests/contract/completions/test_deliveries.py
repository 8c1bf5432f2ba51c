"""A destination's worker: at least once, in order by key, nothing dropped, one at a time over all processes."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import SendFailed
from app.domain.errors import InvalidInput
from app.domain.models.deliveries import DestinationSettings, EventFilter, Message, Scrubbing
from app.services.completion_reports import CompletionService
from app.services.deliveries import is_sampled, ordering_key
from tests.contract.completions.receivers import NOON, Post, Receiver, event, unavailable


async def test_everything_arrives_in_order(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    sent = await post.write(*(event(number, f"conv_{number % 3}") for number in range(30)))
    worker = await post.worker(receiver, batch_size=4, concurrency=3)
    await post.deliver(worker)
    assert sorted(receiver.ids) == sorted(one.id for one in sent)
    for session in ("conv_0", "conv_1", "conv_2"):
        got = [message.body["number"] for message in receiver.got if message.body["session_id"] == session]
        assert got == sorted(got)
    (stats,) = await post.store.stats()
    assert (stats.pending, stats.delivered, stats.dead, stats.unread) == (0, 30, 0, 0)


async def test_an_hour_of_500_drops_nothing_and_touches_nobody_else(engine: AsyncEngine) -> None:
    post, broken, healthy = Post(engine), Receiver(unavailable), Receiver()
    sent = await post.write(*(event(number, f"conv_{number % 7}") for number in range(70)))
    bad = await post.worker(broken, retry_attempts=3)
    good = await post.worker(healthy, "audit")
    await post.deliver(good)
    assert sorted(healthy.ids) == sorted(one.id for one in sent)
    await post.deliver(bad, seconds=3_600)
    assert broken.got == []
    assert broken.calls < 300, "a destination that is down is asked now and then, not hammered"
    broken.fault = lambda _batch: None
    await post.deliver(bad, seconds=600)
    assert sorted(broken.ids) == sorted(one.id for one in sent)
    assert len(broken.got) == 70
    for session in range(7):
        got = [message.body["number"] for message in broken.got if message.body["session_id"] == f"conv_{session}"]
        assert got == sorted(got)
    assert bad.metrics.dead_letters == 0


async def test_a_failing_event_holds_back_its_key_only(engine: AsyncEngine) -> None:
    post = Post(engine)
    sent = await post.write(event(0, "a"), event(1, "a"), event(2, "b"), event(3, "b"))

    def refuses_the_first(batch: Sequence[Message]) -> BaseException | None:
        return SendFailed("It answered 503.", status=503) if any(one.id == sent[0].id for one in batch) else None

    receiver = Receiver(refuses_the_first)
    worker = await post.worker(receiver, retry_attempts=4)
    await post.deliver(worker)
    assert receiver.ids == [sent[2].id, sent[3].id]
    receiver.fault = lambda _batch: None
    await post.deliver(worker, seconds=60)
    assert receiver.ids[2:] == [sent[0].id, sent[1].id]


async def test_attempts_are_used_up_while_others_go_through(engine: AsyncEngine) -> None:
    post = Post(engine)
    (poison,) = await post.write(event(0, "a"))
    receiver = Receiver(lambda batch: unavailable(batch) if any(one.id == poison.id for one in batch) else None)
    worker = await post.worker(receiver, retry_attempts=3)
    for number in range(1, 10):
        post.clock.turn(10)
        await post.write(event(number, f"b{number}"))
        await post.deliver(worker, seconds=30)
    (delivery,) = await post.store.list(EventFilter(state="dead"), limit=10)
    assert delivery.event_id == poison.id
    assert delivery.attempts >= 3
    assert [attempt.status for attempt in delivery.history] == [500] * delivery.attempts
    assert len(receiver.got) == 9


async def test_a_refusal_is_a_dead_letter_at_once_and_can_be_sent_again(engine: AsyncEngine) -> None:
    post = Post(engine)
    first, second = await post.write(event(0), event(1))
    refused = SendFailed("It answered 422.", permanent=True, status=422)
    receiver = Receiver(lambda batch: refused if any(one.id == first.id for one in batch) else None)
    worker = await post.worker(receiver, batch_size=10)
    await post.deliver(worker)
    assert receiver.ids == [second.id]
    (dead,) = await post.store.list(EventFilter(destination="billing", state="dead"), limit=10)
    assert (dead.event_id, dead.attempts, dead.last_error) == (first.id, 1, "It answered 422.")
    receiver.fault = lambda _batch: None
    service = CompletionService(post.outbox, post.store, lambda: None)
    assert await service.redeliver(EventFilter(destination="billing", state="dead")) == 1
    await post.deliver(worker)
    assert receiver.ids == [second.id, first.id]
    (again,) = await service.deliveries(EventFilter(event_ids=(first.id,)))
    assert (again.state, again.last_error) == ("delivered", None) or again.history[-1].ok


async def test_replay_by_time(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    sent = await post.write(*(event(number, created_at=NOON + timedelta(hours=number)) for number in range(6)))
    worker = await post.worker(receiver)
    await post.deliver(worker)
    service = CompletionService(post.outbox, post.store, lambda: None)
    wanted = EventFilter(destination="billing", since=NOON + timedelta(hours=2), until=NOON + timedelta(hours=4))
    assert await service.redeliver(wanted) == 2
    await post.deliver(worker)
    assert receiver.ids[6:] == [sent[2].id, sent[3].id]
    for wrong in (EventFilter(), EventFilter(destination="billing"), EventFilter(destination="x", state="dead")):
        with pytest.raises(InvalidInput):
            await service.redeliver(wrong)


async def test_retry_after_is_honoured(engine: AsyncEngine) -> None:
    post = Post(engine)
    receiver = Receiver(lambda _batch: SendFailed("It answered 429.", status=429, retry_after_s=120))
    await post.write(event())
    worker = await post.worker(receiver)
    await post.deliver(worker, seconds=119)
    assert receiver.calls == 1
    receiver.fault = lambda _batch: None
    await post.deliver(worker, seconds=2)
    assert len(receiver.got) == 1


async def test_what_nobody_takes_is_given_up_after_its_time(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver(unavailable)
    await post.write(event())
    worker = await post.worker(receiver, give_up_after_s=600.0)
    await post.deliver(worker, seconds=500)
    assert worker.metrics.dead_letters == 0
    await post.deliver(worker, seconds=700)
    assert worker.metrics.dead_letters == 1


async def test_a_destination_that_hangs_is_cut_off(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    receiver.hang = asyncio.Event()
    sent = await post.write(event())
    worker = await post.worker(receiver, timeout_ms=10)
    await post.deliver(worker)
    (delivery,) = await post.store.list(EventFilter(), limit=1)
    assert (delivery.state, delivery.last_error) == ("pending", "No answer within 10 ms.")
    receiver.hang.set()
    await post.deliver(worker, seconds=60)
    assert receiver.ids == [sent[0].id]


async def test_code_that_crashes_is_a_failure_like_others(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver(lambda _batch: RuntimeError("secret"))
    await post.write(event())
    worker = await post.worker(receiver)
    await post.deliver(worker)
    (delivery,) = await post.store.list(EventFilter(), limit=1)
    assert delivery.last_error == "The destination's code failed: RuntimeError."


async def test_two_workers_send_everything_once(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    sent = await post.write(*(event(number, f"c{number}") for number in range(40)))
    one = await post.worker(receiver, owner="one")
    two = await post.worker(receiver, owner="two")
    await asyncio.gather(post.deliver(one), post.deliver(two))
    assert sorted(receiver.ids) == sorted(event.id for event in sent)
    assert {one.metrics.delivered, two.metrics.delivered} == {0, 40}
    await one.release()
    await two.release()
    await post.write(event(99))
    await post.deliver(two)
    assert two.metrics.delivered in {1, 41}


async def test_a_crash_between_send_and_mark_sends_again_under_the_same_id(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    (sent,) = await post.write(event())
    dying = await post.worker(receiver, owner="dying")
    dying.lease_s = 0.2

    async def lost(*_: object) -> bool:
        raise asyncio.CancelledError

    healthy_record, post.store.record = post.store.record, lost  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await dying.step()
    post.store.record = healthy_record  # type: ignore[method-assign]
    heir = await post.worker(receiver, owner="heir")
    async with asyncio.timeout(10):  # the lease ends by the database's clock
        while not heir.metrics.delivered:
            await heir.step()
    assert receiver.ids == [sent.id, sent.id]
    (delivery,) = await post.store.list(EventFilter(), limit=5)
    assert delivery.state == "delivered"


async def test_who_has_lost_the_lease_writes_nothing(engine: AsyncEngine) -> None:
    post = Post(engine)
    await post.write(event())
    await post.store.ensure("billing", latest=False)
    state = await post.store.claim("billing", "one", 0)
    assert state is not None
    assert await post.store.claim("billing", "two", 30) is not None
    assert await post.store.claim("billing", "one", 30) is None
    assert not await post.store.plan("billing", "one", 1, [])
    assert not await post.store.record(state, "one", [])
    await post.store.release("billing", "one")
    assert await post.store.claim("billing", "one", 30) is None


async def test_sampling_is_stable_and_right_on_average(engine: AsyncEngine) -> None:
    post, first, second = Post(engine), Receiver(), Receiver()
    sent = await post.write(*(event(number, f"c{number}") for number in range(200)))
    for name, receiver in (("a", first), ("b", second)):
        await post.deliver(await post.worker(receiver, name, sampling_rate=0.3))
    assert sorted(first.ids) == sorted(second.ids) == sorted(one.id for one in sent if is_sampled(one.id, 0.3))
    assert 30 <= len(first.got) <= 90
    assert all(is_sampled(one.id, 1.0) and not is_sampled(one.id, 0.0) for one in sent)


async def test_a_destination_may_begin_with_the_next_event(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    await post.write(event(1))
    worker = await post.worker(receiver, start_at="latest")
    (new,) = await post.write(event(2))
    await post.deliver(worker)
    assert receiver.ids == [new.id]


async def test_only_one_organization(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    _, theirs = await post.write(event(1), event(2, organization_id="other"))
    await post.deliver(await post.worker(receiver, organization_id="other"))
    assert receiver.ids == [theirs.id]


async def test_what_leaves_is_scrubbed(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    payload = {"content": "hi", "metadata": {"note": "key sk-abcdefghijklmnopqrstuv, ann@example.com"}}
    await post.write(event(payload=payload))
    await post.deliver(await post.worker(receiver, scrubbing=Scrubbing(patterns=("secrets", "pii"))))
    (message,) = receiver.got
    assert "content" not in message.body
    assert message.body["metadata"] == {"note": "key [redacted:openai_key], [redacted:email]"}


async def test_records_of_deliveries_are_pruned(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    await post.write(event())
    worker = await post.worker(receiver, retention_days=1.0)
    await post.deliver(worker)
    post.clock.elapsed_s = -10 * 86_400
    assert await worker.prune() == 0
    post.clock.elapsed_s = 10_000 * 86_400
    assert await worker.prune() == 1
    await post.store.forget("billing")
    assert await post.store.stats() == []


def test_ordering_keys() -> None:
    settings, one = DestinationSettings("x"), event(session="s")
    assert ordering_key(settings, one) == ordering_key(settings, event(session="s"))
    assert ordering_key(settings, one) != ordering_key(settings, event(session="s", organization_id="other"))
    assert ordering_key(replace(settings, ordering_key="none"), one) is None
    assert ordering_key(replace(settings, ordering_key="user_id"), event(user_id=None)) is None
    assert ordering_key(replace(settings, ordering_key="organization_id"), one) is not None
