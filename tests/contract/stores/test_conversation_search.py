"""Search on both databases: the same words find the same messages, whatever is typed."""

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.conversations import Caller, Conversation
from app.infrastructure.persistence.conversation_search import snippet
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import reading, writing
from tests.contract.stores.rows import ANNA, NOON, STRANGERS, remember, say


@pytest.fixture
def store(engine: AsyncEngine) -> SqlConversationStore:
    return SqlConversationStore(engine)


async def opened(store: SqlConversationStore, caller: Caller = ANNA) -> Conversation:
    return await store.create(caller, agent="helper", provider="openai", provider_conversation_id=None)


async def found(store: SqlConversationStore, query: str, limit: int = 10) -> list[str]:
    return [hit.message.text for hit in await store.search(ANNA, query, limit)]


FOUND = [
    ("hello", ["Hello World"]),
    ("WORLD hello", ["Hello World"]),
    ("wor", ["Hello World"]),  # the beginning of a word
    ("orld", []),
    ("hello nobody", []),
    ("100%", ["100% sure"]),
    ("%", ["100% sure"]),
    ("% sure", ["100% sure"]),
    ("snake_case", ["snake_case"]),
    ("_", ["snake_case"]),
    ("\\", ["back\\slash"]),
    ("back\\slash", ["back\\slash"]),
    ("/", ["either/or"]),
    ("either/or", ["either/or"]),
    ("größe", ["Die Größe"]),
    ("😀", ["a 😀 smile"]),
    ("smile 😀", ["a 😀 smile"]),
    ("o'clock", ["five o'clock"]),
    ('"quoted"', ['a "quoted" thing']),
    ("'; --", []),
    ("", []),
    ("  ", []),
    ("nul\x00", []),
    ("half\ud83d", []),
    ("x" * 100_000, []),
]


async def test_words_are_found(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await opened(store)
    texts = ["Hello World", "100% sure", "snake_case", "back\\slash", "either/or", "ten and 10 more", "Die Größe"]
    await say(engine, made, *texts, "a 😀 smile", "five o'clock", 'a "quoted" thing')
    for query, expected in FOUND:
        assert await found(store, query) == expected, query


ODD = [
    'a"b', '"', '""', "a*", "*", "a AND", "AND", "OR NOT", "NEAR(a b)", "text:a", "^a", "(a", "a)", "a:*", "a & b",
    "!a", "a | b", "<->", "a <-> b", "'", "''", "a\\", "\\'", "-a", "+a", "{a}", "[a]", "$$", "%s", ":x", "?1",
    "a\nb", "\u2028", "\ufeff", "١٢٣", "²", "漢字",
    "e\u0301", "\ud7ff", "\U0010ffff", "'a':*", "a'b'c", "a\\'b", "😀'\"\\",
]  # fmt: skip


async def test_no_query_is_an_error(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await opened(store)
    await say(engine, made, *ODD)
    for query in ODD:
        # What was typed is found where it stands, unless it has no words and is no sign in the text either.
        hits = await found(store, query, limit=100)
        assert query in hits or not hits, query
        assert await found(store, f"hello {query}") == [], query


async def test_no_query_has_too_many_words(store: SqlConversationStore, engine: AsyncEngine) -> None:
    letters = " ".join(chr(0x4E00 + number) for number in range(500))
    signs = " ".join(chr(0x2190 + number) for number in range(500))
    await say(engine, await opened(store), letters, f"{letters} {signs}", "hay")
    assert set(await found(store, letters)) == {letters, f"{letters} {signs}"}
    assert await found(store, signs) == [f"{letters} {signs}"]
    assert await found(store, f"{letters[:400]} {signs}") == [f"{letters} {signs}"]


async def test_words_of_all_scripts_are_found(store: SqlConversationStore, engine: AsyncEngine) -> None:
    words = ["漢字", "١٢٣", "b'c'd", "-e", "f:*"]
    await say(engine, await opened(store), *(f"xx {word} yy" for word in words))
    for word in words:
        assert await found(store, word) == [f"xx {word} yy"]


async def test_the_best_come_first_then_the_newest(store: SqlConversationStore, engine: AsyncEngine) -> None:
    old, new = await opened(store), await opened(store)
    await say(engine, new, "word and more", at=NOON + timedelta(days=1))
    await say(engine, old, *(["word and more"] * 120), "word word word")
    hits = await store.search(ANNA, "word", 1000)
    assert len(hits) == 100
    assert hits[0].message.text == "word word word"
    assert (hits[1].conversation_id, hits[1].title) == (new.id, None)
    assert [hit.message.position for hit in hits[2:]] == list(range(120, 22, -1))
    assert len({hit.id for hit in hits}) == 100
    assert len(await store.search(ANNA, "word", 2)) == 2
    assert list(await store.search(ANNA, "word", 0)) == []


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_strangers_find_nothing(store: SqlConversationStore, engine: AsyncEngine, stranger: Caller) -> None:
    await say(engine, await opened(store), "a secret")
    assert list(await store.search(stranger, "secret", 10)) == []


async def test_what_is_deleted_is_not_found_and_the_index_is_sound(
    store: SqlConversationStore, engine: AsyncEngine
) -> None:
    kept, gone = await opened(store), await opened(store)
    for one in (kept, gone):
        await say(engine, one, "first needle", "second needle")
        await remember(engine, one, {"role": "user", "content": "x"})
    await store.delete(ANNA, gone.id)
    assert [hit.conversation_id for hit in await store.search(ANNA, "needle", 10)] == [kept.id] * 2
    await store.delete(ANNA, kept.id)
    assert await found(store, "needle") == []
    if engine.dialect.name == "sqlite":
        async with writing(engine) as connection:
            await connection.execute(
                text("INSERT INTO agent_message_search (agent_message_search) VALUES ('integrity-check')")
            )
            left = await connection.execute(text("SELECT count(*) FROM agent_message_search_rows"))
            assert left.scalar_one() == 0


async def test_words_stay_with_their_messages_when_the_file_is_compacted(sqlite_engine: AsyncEngine) -> None:
    """VACUUM numbers the rows of a table without a key of numbers anew."""
    store = SqlConversationStore(sqlite_engine)
    first, second = await opened(store), await opened(store)
    await say(sqlite_engine, first, *(f"straw {number}" for number in range(50)))
    await say(sqlite_engine, second, "needle")
    await store.delete(ANNA, first.id)
    async with sqlite_engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql("COMMIT")
        await connection.exec_driver_sql("VACUUM")
        await connection.exec_driver_sql("BEGIN")
    assert await found(store, "needle") == ["needle"]
    await store.delete(ANNA, second.id)
    assert await found(store, "needle") == []


async def test_postgresql_finds_by_the_index(postgresql_engine: AsyncEngine) -> None:
    store = SqlConversationStore(postgresql_engine)
    made = await opened(store)
    await say(postgresql_engine, made, *(f"straw{number}" for number in range(300)), "needle")
    asked = (
        "EXPLAIN SELECT position FROM agent_messages WHERE to_tsvector('simple', left(text, 100000))"
        " @@ to_tsquery('simple', '''needle'':*')"
    )
    async with reading(postgresql_engine) as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        plan = "\n".join((await connection.execute(text(asked))).scalars())
    assert "agent_message_search" in plan


async def test_a_message_of_a_million_words_can_be_written(store: SqlConversationStore, engine: AsyncEngine) -> None:
    await say(engine, await opened(store), " ".join(f"w{number:x}" for number in range(200_000)))
    assert len(await store.search(ANNA, "w1f", 1)) == 1


@pytest.mark.parametrize(
    ("said", "words", "shown"),
    [
        ("short needle", ["needle"], "short needle"),
        ("a\n\n  b", ["a"], "a b"),
        (f"{'hay ' * 100}needle{' hay' * 100}", ["NEEDLE"], "needle"),
        ("nothing of it", ["prefix"], "nothing of it"),
        ("", ["x"], ""),
    ],
)
def test_snippets(said: str, words: list[str], shown: str) -> None:
    made = snippet(said, words)
    assert shown in made
    assert len(made) <= 162
    assert made.startswith("…") == (len(said) > 200)
    assert "\n" not in made
