import json
from contextlib import aclosing
from datetime import timedelta

import pytest

from app.domain.errors import ConversationNotFound, InvalidInput
from app.domain.models.conversations import Caller, ForkPoint
from app.services.conversations import ConversationService
from app.services.shares import ShareService
from tests.unit.services.fakes import ANNA, NOON, Clock, Conversations

STRANGER = Caller("globex", "anna")


async def service_over(store: Conversations, page: int = 500) -> ConversationService:
    await store.create(ANNA, agent="helper", provider="openai", provider_conversation_id=None)
    return ConversationService(store, export_page=page)


@pytest.mark.parametrize("limit", [0, -1, 101])
async def test_limits_outside_the_range_are_refused(limit: int) -> None:
    store = Conversations()
    service = await service_over(store)
    for call in (service.list(ANNA, limit=limit), service.search(ANNA, "word", limit=limit)):
        with pytest.raises(InvalidInput) as caught:
            await call
        assert caught.value.param == "limit"
    assert store.calls == []


async def test_lists_and_searches_are_the_stores() -> None:
    store = Conversations()
    service = await service_over(store)
    found, more = await service.list(ANNA, limit=100, after="conv_9")
    assert ([one.id for one in found], more) == (["conv_1"], False)
    await service.search(ANNA, "two words")
    assert store.calls == [("list", ANNA, 100, "conv_9", False, None), ("search", ANNA, "two words", 20)]


@pytest.mark.parametrize("query", ["", " \n", "x" * 501])
async def test_queries_must_say_something_and_not_too_much(query: str) -> None:
    service = await service_over(Conversations())
    with pytest.raises(InvalidInput) as caught:
        await service.search(ANNA, query)
    assert caught.value.param == "query"


async def test_a_view_holds_the_conversation_and_its_messages() -> None:
    service = await service_over(Conversations(["hello", "hi"]))
    view = await service.show(ANNA, "conv_1")
    assert view.conversation.id == "conv_1"
    assert [message.text for message in view.messages] == ["hello", "hi"]


async def test_nothing_is_shown_exported_or_deleted_for_strangers() -> None:
    service = await service_over(Conversations(["hello"]))
    for method in (service.show, service.export_jsonl, service.export_markdown, service.delete):
        with pytest.raises(ConversationNotFound):
            await method(STRANGER, "conv_1")
    await service.delete(ANNA, "conv_1")
    with pytest.raises(ConversationNotFound):
        await service.show(ANNA, "conv_1")


async def test_an_export_holds_every_item_on_a_line_of_its_own() -> None:
    items = [{"role": "user", "content": text} for text in ("two\nlines", "nul \x00", "half \ud83d", "naïve", "\u2028")]
    store = Conversations(items=items)
    service = await service_over(store, page=2)
    lines = [line async for line in await service.export_jsonl(ANNA, "conv_1")]
    assert [json.loads(line) for line in lines] == items
    assert all(line.endswith("\n") and len(line.splitlines()) == 1 for line in lines)
    assert store.calls == [("items", 2, 0), ("items", 2, 2), ("items", 2, 4), ("items", 2, 6)]


async def test_an_export_reads_no_further_than_it_is_read() -> None:
    store = Conversations(items=[{"n": n} for n in range(10_000)])
    service = await service_over(store, page=100)
    async with aclosing(await service.export_jsonl(ANNA, "conv_1")) as lines:
        assert await anext(lines) == '{"n":0}\n'
    assert store.calls == [("items", 100, 0)]


async def test_markdown_has_a_heading_and_a_section_a_message() -> None:
    store = Conversations(["hello", "**hi**\n\n- there", "bye"], title="A\n# trap")
    service = await service_over(store, page=2)
    document = "".join([part async for part in await service.export_markdown(ANNA, "conv_1")])
    at = [(NOON + timedelta(seconds=n)).isoformat() for n in range(4)]
    assert document == (
        f"# A # trap\n\n- Conversation: `conv_1`\n- Agent: helper\n- Opened: {at[0]}\n"
        f"\n## User, {at[1]}\n\nhello\n"
        f"\n## Assistant (helper), {at[2]}\n\n**hi**\n\n- there\n"
        f"\n## User, {at[3]}\n\nbye\n"
    )
    assert store.calls == [("messages", 2, 0), ("messages", 2, 2), ("messages", 2, 3)]


async def test_markdown_of_an_empty_conversation_is_its_head() -> None:
    service = await service_over(Conversations())
    parts = [part async for part in await service.export_markdown(ANNA, "conv_1")]
    assert parts[0].startswith("# Conversation\n")
    assert len(parts) == 1


async def test_hits_come_in_pages() -> None:
    service = await service_over(Conversations([f"word {number}" for number in range(5)]))
    first, more = await service.search_page(ANNA, "word", limit=2)
    second, still = await service.search_page(ANNA, "word", limit=2, after=first[-1].id)
    last, end = await service.search_page(ANNA, "word", limit=2, after=second[-1].id)
    assert [hit.id for hit in (*first, *second, *last)] == [f"conv_1:{number}" for number in range(1, 6)]
    assert (more, still, end) == (True, True, False)
    with pytest.raises(InvalidInput) as caught:
        await service.search_page(ANNA, "word", after="conv_1:9")
    assert caught.value.param == "after"
    for limit in (0, 101):
        with pytest.raises(InvalidInput):
            await service.search_page(ANNA, "word", limit=limit)


async def test_a_fork_is_behind_a_run_or_an_item() -> None:
    store = Conversations()
    service = await service_over(store)
    await service.fork(ANNA, "conv_1", after_run_id="run_1")
    await service.fork(ANNA, "conv_1")
    assert store.calls == [("fork", "conv_1", ForkPoint("run_1")), ("fork", "conv_1", ForkPoint())]
    with pytest.raises(InvalidInput) as caught:
        await service.fork(ANNA, "conv_1", after_run_id="run_1", after_item_id="msg_1")
    assert caught.value.param == "after_item_id"


async def test_only_the_hash_of_a_links_token_is_kept() -> None:
    store = Conversations()
    await service_over(store)
    shares = ShareService(store, Clock())
    issued = await shares.create(ANNA, "conv_1", lifetime_s=60)
    assert issued.token.startswith("shr_")
    assert issued.share.expires_at - issued.share.created_at == timedelta(seconds=60)
    assert await shares.read(issued.token, limit=3, after=2) is None
    assert await shares.read("half \ud83d") is None
    (_, kept), (_, asked, *page), _ = store.calls
    assert kept == asked
    assert issued.token not in kept
    assert page == [NOON, 3, 2]
    for lifetime_s in (0, -1, 367 * 24 * 3600):
        with pytest.raises(InvalidInput) as caught:
            await shares.create(ANNA, "conv_1", lifetime_s=lifetime_s)
        assert caught.value.param == "expires_in_s"
