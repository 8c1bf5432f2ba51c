from typing import Any

import pytest

from app.domain.errors import InvalidInput, SessionNotFound
from app.domain.models.conversations import Caller
from app.services.memory import OpenAIRuntime
from tests.unit.services.fakes import ANNA, Memories


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def deep() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"in": value}
    return value


async def test_the_six_verbs() -> None:
    runtime = OpenAIRuntime(Memories())
    session = await runtime.create_session(ANNA)
    await runtime.add_messages(ANNA, session, [{"role": "user", "content": "half \ud83d nul \x00"}])
    await runtime.set_metadata(ANNA, session, {"model": "m"})
    await runtime.set_metadata(ANNA, session, {"temperature": 0.5})
    assert await runtime.get_messages(ANNA, session) == [{"role": "user", "content": "half \ud83d nul \x00"}]
    assert await runtime.get_metadata(ANNA, session) == {"model": "m", "temperature": 0.5}
    await runtime.reset(ANNA, session)
    with pytest.raises(SessionNotFound):
        await runtime.get_messages(ANNA, session)


async def test_metadata_is_never_among_the_messages() -> None:
    runtime = OpenAIRuntime(Memories())
    session = await runtime.create_session(ANNA)
    await runtime.set_metadata(ANNA, session, {"secret": "marker"})
    await runtime.add_messages(ANNA, session, [{"content": "hello"}])
    assert "marker" not in str(await runtime.get_messages(ANNA, session))


async def test_unknown_sessions_are_errors_in_every_verb() -> None:
    runtime = OpenAIRuntime(Memories())
    session = await runtime.create_session(ANNA)
    for caller, key in ((ANNA, "conv_nope"), (Caller("acme", "bert"), session), (Caller("globex", "anna"), session)):
        for call in (
            runtime.add_messages(caller, key, [{}]),
            runtime.add_messages(caller, key, []),
            runtime.set_metadata(caller, key, {}),
            runtime.get_messages(caller, key),
            runtime.get_metadata(caller, key),
            runtime.reset(caller, key),
        ):
            with pytest.raises(SessionNotFound):
                await call


async def test_what_was_given_may_be_changed_afterwards() -> None:
    runtime = OpenAIRuntime(Memories())
    session = await runtime.create_session(ANNA)
    message: dict[str, Any] = {"content": ["part"]}
    values: dict[str, Any] = {"tags": ["a"]}
    await runtime.add_messages(ANNA, session, [message])
    await runtime.set_metadata(ANNA, session, values)
    message["content"].append("later")
    values["tags"].append("b")
    assert await runtime.get_messages(ANNA, session) == [{"content": ["part"]}]
    assert await runtime.get_metadata(ANNA, session) == {"tags": ["a"]}


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        None,
        1,
        [],
        [{}],
        {"a": object()},
        {"a": (1, 2)},
        {1: "a"},
        {"a": float("nan")},
        {"a": b"x"},
        circular(),
        deep(),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_messages_that_are_no_json_objects_are_refused_by_index(bad: Any) -> None:
    store = Memories()
    runtime = OpenAIRuntime(store)
    session = await runtime.create_session(ANNA)
    with pytest.raises(InvalidInput, match=r"messages\[1\]") as caught:
        await runtime.add_messages(ANNA, session, [{"fine": True}, bad])
    assert caught.value.param == "messages[1]"
    assert await runtime.get_messages(ANNA, session) == []


@pytest.mark.parametrize("bad", [{"a": object()}, {1: 2}, {"a": {1, 2}}, circular()])
async def test_metadata_that_is_not_json_is_refused(bad: Any) -> None:
    runtime = OpenAIRuntime(Memories())
    session = await runtime.create_session(ANNA)
    with pytest.raises(InvalidInput) as caught:
        await runtime.set_metadata(ANNA, session, bad)
    assert caught.value.param == "metadata"
    assert await runtime.get_metadata(ANNA, session) == {}
