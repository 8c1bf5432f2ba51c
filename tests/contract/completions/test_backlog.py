"""How far destinations are, over both databases."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import SendFailed
from app.domain.metrics_ports import CaptureSource, DestinationHealth, NoMetrics
from app.domain.models.deliveries import Message
from app.infrastructure.persistence.backlog import SqlBacklog
from app.infrastructure.persistence.engine import build_engine
from tests.contract.completions.receivers import NOON, Post, Receiver, event, unavailable


class Heard(NoMetrics):
    """Keeps the reports of deliveries."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, int, bool]] = []
        self.dead_letters: list[str] = []
        self.captures: list[tuple[CaptureSource, int]] = []

    def attempted(self, destination: str, events: int, latency_s: float, *, ok: bool) -> None:
        assert latency_s >= 0
        self.attempts.append((destination, events, ok))

    def dead(self, destination: str) -> None:
        self.dead_letters.append(destination)


async def looked(engine: AsyncEngine) -> dict[str, DestinationHealth]:
    return {one.name: one for one in await SqlBacklog(engine).destinations()}


async def test_nothing_yet(engine: AsyncEngine) -> None:
    assert await looked(engine) == {}
    post = Post(engine)
    await post.store.ensure("audit", latest=False)
    assert await looked(engine) == {"audit": DestinationHealth("audit", 0, None, None, 0, 0, 0, None)}


async def test_unread_pending_and_dead(engine: AsyncEngine) -> None:
    post = Post(engine)
    sent = await post.write(*(event(number, f"conv_{number}") for number in range(6)))

    def refuses(batch: Sequence[Message]) -> BaseException | None:
        if any(one.id == sent[0].id for one in batch):
            return SendFailed("It answered 422.", permanent=True, status=422)
        return unavailable(batch) if any(one.id == sent[3].id for one in batch) else None

    worker = await post.worker(Receiver(refuses))
    await post.store.ensure("audit", latest=False)
    found = await looked(engine)
    assert (found["billing"].unread, found["audit"].unread) == (6, 6)
    assert found["audit"].oldest_ms == int(sent[0].created_at.timestamp() * 1000)
    await post.deliver(worker)
    found = await looked(engine)
    billing = found["billing"]
    assert (billing.unread, billing.pending, billing.dead) == (0, 1, 1)
    assert billing.oldest_ms == int(sent[3].created_at.timestamp() * 1000)
    assert billing.last_failure_ms == int(NOON.timestamp() * 1000)
    assert (found["audit"].unread, found["audit"].state) == (6, "ok")


async def test_a_destination_that_is_done_has_nothing_old(engine: AsyncEngine) -> None:
    post = Post(engine)
    await post.write(*(event(number) for number in range(3)))
    worker = await post.worker(Receiver())
    await post.deliver(worker)
    billing = (await looked(engine))["billing"]
    assert (billing.state, billing.pending, billing.unread, billing.oldest_ms) == ("ok", 0, 0, None)
    assert billing.last_success_ms == int(NOON.timestamp() * 1000)


async def test_endpoints_of_tenants_are_one(engine: AsyncEngine) -> None:
    post = Post(engine)
    await post.write(*(event(number) for number in range(4)))
    good = await post.worker(Receiver(), "we_1")
    broken = await post.worker(Receiver(unavailable), "we_2")
    await post.store.ensure("we_3", latest=True)
    await post.deliver(good)
    await post.deliver(broken)
    found = await looked(engine)
    assert list(found) == ["webhook_endpoints"]
    together = found["webhook_endpoints"]
    assert (together.pending, together.dead, together.unread) == (4, 0, 0)
    assert (together.state, together.failures) == ("failing", 1)
    assert together.last_success_ms is not None
    await post.store.ensure("we_4", latest=False)
    assert (await looked(engine))["webhook_endpoints"].unread == 4


async def test_it_goes_through_the_index_of_what_is_pending(postgresql_url: str) -> None:
    engine = build_engine(postgresql_url)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = await connection.exec_driver_sql(
            "EXPLAIN SELECT destination, count(*), min(position) FROM completion_deliveries "
            "WHERE state = 'pending' GROUP BY destination"
        )
        assert "ix_completion_deliveries_pending" in str(plan.all())
    await engine.dispose()


async def test_workers_report_every_attempt(engine: AsyncEngine) -> None:
    post, heard = Post(engine), Heard()
    first, _ = await post.write(event(0, "a"), event(1, "b"))
    refused = SendFailed("It answered 422.", permanent=True, status=422)
    worker = await post.worker(Receiver(lambda batch: refused if any(m.id == first.id for m in batch) else None))
    worker.metrics = heard
    await post.deliver(worker)
    assert sorted(heard.attempts) == [("billing", 1, False), ("billing", 1, True)]
    assert heard.dead_letters == ["billing"]


async def test_a_batch_is_one_attempt_of_many_events(engine: AsyncEngine) -> None:
    post, heard = Post(engine), Heard()
    await post.write(*(event(number) for number in range(8)))
    worker = await post.worker(Receiver(), batch_size=8, concurrency=1)
    worker.metrics = heard
    await post.deliver(worker)
    assert heard.attempts == [("billing", 8, True)]
