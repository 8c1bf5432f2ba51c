"""The platform's routes of conversations, by the official client, strict about its own types."""

from collections.abc import Callable
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.api.openai.response_clients import add, client_of
from tests.api.serving import Gate, Served, calls, says, scripted

Serve = Callable[..., Any]

ASKED: dict[str, Any] = {"role": "user", "content": "Which city?"}
ANSWERED: dict[str, Any] = {
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Oslo.", "annotations": []}],
}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "cold"}
REASONING: dict[str, Any] = {"type": "reasoning", "id": "rs_0123456789abcdef0123456789", "summary": []}


@pytest.fixture
def client(demo: Served) -> AsyncOpenAI:
    return client_of(demo)


async def listed(client: AsyncOpenAI, conversation_id: str, **query: Any) -> list[Any]:
    return [item async for item in client.conversations.items.list(conversation_id, **query)]


async def texts(client: AsyncOpenAI, conversation_id: str) -> list[str]:
    """What the messages among the items say, oldest first."""
    items = await listed(client, conversation_id, order="asc")
    return [item.content[0].text for item in items if item.type == "message"]


async def refused(call: Any, status: int) -> dict[str, Any]:
    with pytest.raises(APIStatusError) as caught:
        await call
    assert caught.value.status_code == status, caught.value.body
    error: Any = caught.value.body
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_a_conversation_is_created_changed_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"topic": "demo"})
    assert made.id.startswith("conv_")
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert await client.conversations.retrieve(made.id) == made
    changed = await client.conversations.update(made.id, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"}
    assert (await client.conversations.update(made.id, metadata=None)).metadata == {}
    gone = await client.conversations.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "conversation.deleted")
    for call in (client.conversations.retrieve(made.id), client.conversations.delete(made.id)):
        assert (await refused(call, 404))["code"] == "conversation_not_found"


async def test_a_title_is_given_kept_and_taken_back(client: AsyncOpenAI) -> None:
    made: Any = await client.conversations.create(items=[ASKED])
    assert made.title == "Which city?"
    renamed: Any = await client.conversations.update(made.id, metadata={"a": "b"}, extra_body={"title": "Cities"})
    assert (renamed.title, renamed.metadata) == ("Cities", {"a": "b"})
    reply = await client.post(f"/conversations/{made.id}", cast_to=object, body={"title": None})
    assert (reply["title"], reply["metadata"]) == (None, {"a": "b"})  # type: ignore[index]


async def test_a_conversation_may_be_created_with_nothing(demo: Served) -> None:
    for options in ({}, {"json": {}}, {"json": {"items": None, "metadata": None}}):
        reply = await demo.http.post("/v1/conversations", **options)
        assert (reply.status_code, reply.json()["metadata"]) == (200, {})


async def test_items_are_added_listed_found_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[ASKED])
    added = await client.conversations.items.create(made.id, items=[REASONING, CALL, OUTPUT, ANSWERED])
    assert [item.type for item in added.data] == ["reasoning", "function_call", "function_call_output", "message"]
    assert added.data[0].id == REASONING["id"]  # an endpoint may want it back
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[-1].id, False)
    items = await listed(client, made.id, order="asc")
    assert items[1:] == added.data
    assert [item.status for item in items if item.type != "reasoning"] == ["completed"] * 4
    assert len({item.id for item in items}) == 5
    for item in items:
        assert await client.conversations.items.retrieve(item.id, conversation_id=made.id) == item
    assert await listed(client, made.id) == items[::-1]
    after = await client.conversations.items.delete(items[4].id, conversation_id=made.id)
    assert after.id == made.id
    assert await listed(client, made.id, order="asc") == items[:4]
    assert (await refused(client.conversations.items.retrieve(items[4].id, conversation_id=made.id), 404))[
        "code"
    ] == "item_not_found"


async def test_pages_of_items(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[{"role": "user", "content": str(n)} for n in range(7)])
    for order, expected in [("asc", range(7)), ("desc", range(6, -1, -1))]:
        for limit in (1, 2, 3, 100):
            found = [item.content[0].text for item in await listed(client, made.id, order=order, limit=limit)]
            assert found == [str(n) for n in expected]


async def test_an_empty_page_of_items(client: AsyncOpenAI) -> None:
    page = await client.conversations.items.list((await client.conversations.create()).id)
    assert (page.data, page.first_id, page.last_id, page.has_more) == ([], "", "", False)  # type: ignore[attr-defined]


async def test_equal_ids_of_a_client_never_stop_a_page(client: AsyncOpenAI) -> None:
    """Ids that come twice are taken off; short ones never name an item."""
    twice = {**ANSWERED, "id": "msg_0123456789abcdef0123456789"}
    made = await client.conversations.create(items=[twice, twice, {**ANSWERED, "id": "msg_1"}])
    await client.conversations.items.create(made.id, items=[twice])
    for limit in (1, 2, 3):
        items = await listed(client, made.id, order="asc", limit=limit)
        ids = [item.id for item in items]
        assert (len(ids), len(set(ids)), ids[0]) == (4, 4, twice["id"])
        assert "msg_1" not in ids


async def test_items_of_every_kind_come_back(client: AsyncOpenAI) -> None:
    parts = [{"type": "input_text", "text": "this"}, {"type": "input_image", "image_url": "https://x.example/a.png"}]
    web = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
    given: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"type": "custom_tool_call", "call_id": "c2", "name": "t", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "y"},
        {**OUTPUT, "output": [{"type": "input_image", "image_url": "https://x.example/b.png"}]},
        web,
        {"type": "compaction", "encrypted_content": "abc"},
        {"type": "mcp_approval_response", "approval_request_id": "r1", "approve": True},
    ]
    made = await client.conversations.create(items=given)
    items = await listed(client, made.id, order="asc", include=["message.output_text.logprobs"])
    assert [item.type for item in items] == [entry.get("type", "message") for entry in given]
    assert items[1].content[1].detail == "auto"


async def test_runs_add_items(serve: Serve) -> None:
    client = client_of(await serve(scripted(calls("add", '{"a":1,"b":2}'), says("Three."), tools=[add])))
    made = await client.conversations.create()
    response = await client.responses.create(model="helper", input="1+2?", conversation=made.id)
    assert response.output_text == "Three."
    items = await listed(client, made.id, order="asc")
    assert [item.type for item in items] == ["message", "function_call", "function_call_output", "message"]
    assert items[3].content[0].text == "Three."
    shown: Any = await client.conversations.retrieve(made.id)
    assert (shown.run_count, shown.message_count, shown.last_agent) == (1, 2, "helper")


async def test_items_that_were_added_are_what_the_model_sees(serve: Serve) -> None:
    agent = scripted(says("Oslo, as you said."))
    client = client_of(await serve(agent))
    made = await client.conversations.create(items=[ASKED, ANSWERED])
    await client.responses.create(model="helper", input="Again?", conversation=made.id)
    assert await texts(client, made.id) == ["Which city?", "Oslo.", "Again?", "Oslo, as you said."]


async def test_nothing_is_changed_under_a_run(serve: Serve) -> None:
    gate = Gate()
    served = await serve(scripted(calls("wait_at_gate"), says("Done."), tools=[function_of(gate)]))
    client = client_of(served)
    made = await client.conversations.create(items=[ASKED])
    (item,) = await listed(client, made.id)
    response = await client.responses.create(model="helper", input="go", conversation=made.id, background=True)
    await gate.reached.wait()
    for call in (
        client.conversations.items.create(made.id, items=[ASKED]),
        client.conversations.items.delete(item.id, conversation_id=made.id),
    ):
        assert (await refused(call, 409))["code"] == "conversation_busy"
    gate.open.set()
    await served.container.runs.result(access_of(served), run_of(response.id))
    await client.conversations.items.delete(item.id, conversation_id=made.id)
    assert await texts(client, made.id) == ["go", "Done."]


def function_of(gate: Gate) -> Any:
    from agents import function_tool

    return function_tool(gate.wait_at_gate)


def access_of(_served: Served) -> Any:
    from app.domain.models.conversations import Caller

    return Caller("default")


def run_of(response_id: str) -> str:
    return response_id.replace("resp_", "run_")


async def test_nothing_is_left_that_an_endpoint_refuses(client: AsyncOpenAI) -> None:
    given: list[Any] = [ASKED, REASONING, CALL, OUTPUT, {"role": "user", "content": "so?"}]
    for gone, left in [
        (2, ["message", "message"]),  # a call takes its output along, and the reasoning that led to it alone
        (3, ["message", "reasoning", "function_call", "message"]),  # an output leaves its call open
    ]:
        made = await client.conversations.create(items=given)
        items = await listed(client, made.id, order="asc")
        await client.conversations.items.delete(items[gone].id, conversation_id=made.id)
        assert [item.type for item in await listed(client, made.id, order="asc")] == left


async def test_what_an_item_said_is_gone_everywhere(demo: Served, client: AsyncOpenAI) -> None:
    said = [{"role": "user", "content": text} for text in ("one", "secret", "three")]
    made = await client.conversations.create(items=said)
    shared = (await demo.http.post(f"/v1/conversations/{made.id}/share")).json()
    items = await listed(client, made.id, order="asc")
    left: Any = await client.conversations.items.delete(items[1].id, conversation_id=made.id)
    assert left.message_count == 2
    rows = demo.rows("SELECT position, text FROM agent_messages ORDER BY position")
    assert [(row["position"], row["text"]) for row in rows] == [(1, "one"), (2, "three")]
    assert (await demo.http.get("/v1/conversations/search?q=secret")).json()["data"] == []
    await client.conversations.items.create(made.id, items=[{"role": "user", "content": "later"}])
    seen = (await demo.http.get(shared["path"])).json()
    assert [message["text"] for message in seen["data"]] == ["one", "three"]


BAD_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"metadata": {"k": "x" * 513}}, "metadata.k"),
    ({"metadata": {"k" * 65: "x"}}, f"metadata.{'k' * 64}"),
    ({"metadata": []}, "metadata"),
    ({"items": "hello"}, "items"),
    ({"items": ["hello"]}, "items[0]"),
    ({"items": [{}]}, "items[0].type"),
    ({"items": [ASKED] * 21}, "items"),
    ({"items": [ASKED, {"role": "nobody", "content": "x"}]}, "items[1].role"),
    ({"items": [{"role": "user"}]}, "items[0].content"),
    ({"items": [{"type": "nothing"}]}, "items[0].type"),
    ({"items": [{"type": 3}]}, "items[0].type"),
    ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type"),
    ({"items": [{"type": "computer_call"}]}, "items[0]"),
    ({"items": [{"type": "function_call", "call_id": "c", "name": "n"}]}, "items[0].arguments"),
    ({"items": [{**ASKED, "colour": "red"}]}, "items[0].colour"),
    ({"colour": "red"}, "colour"),
    ({"title": ""}, "title"),
    ({"title": "  "}, "title"),
    ({"title": "nul \x00"}, "title"),
    ({"title": "x" * 256}, "title"),
    ({"agent": "nobody"}, "agent"),
]


async def test_bad_bodies_are_refused_by_name(demo: Served) -> None:
    made = (await demo.http.post("/v1/conversations")).json()["id"]
    for body, param in BAD_BODIES:
        paths = ["/v1/conversations"]
        if "agent" not in body:
            paths.append(f"/v1/conversations/{made}{'/items' if 'items' in body else ''}")
        for path in paths:
            reply = await demo.http.post(path, json=body)
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (404 if param == "agent" else 400, param), error
    assert [row["id"] for row in demo.rows("SELECT id FROM agent_conversations")] == [made]
    assert demo.history(made) == []


async def test_an_update_and_an_addition_must_say_something(demo: Served) -> None:
    made = (await demo.http.post("/v1/conversations")).json()["id"]
    for path, body, param in [("", {}, "metadata"), ("/items", {}, "items"), ("/items", {"items": []}, "items")]:
        reply = await demo.http.post(f"/v1/conversations/{made}{path}", json=body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        assert reply.json()["error"]["code"] == "missing_required_parameter"


async def test_bad_pages_are_refused_by_name(demo: Served) -> None:
    made = (await demo.http.post("/v1/conversations")).json()["id"]
    for query, param in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("after=msg_nothing", "after"),
        ("after=msg_ffffffffffffffff", "after"),
        ("after=%00", "after"),
        ("include[]=everything", "include[].0"),
    ]:
        reply = await demo.http.get(f"/v1/conversations/{made}/items?{query}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_ids_of_nothing(demo: Served) -> None:
    made = (await demo.http.post("/v1/conversations")).json()["id"]
    for wrong in ("conv_nope", "%00", "conv_%0d%0aset-cookie:x", "x" * 300, "%ed%a0%80"):
        for method, path, body in [
            ("GET", wrong, None),
            ("DELETE", wrong, None),
            ("POST", wrong, {"metadata": {}}),
            ("GET", f"{wrong}/items", None),
            ("POST", f"{wrong}/items", {"items": [ASKED]}),
            ("GET", f"{wrong}/items/{wrong}", None),
            ("DELETE", f"{wrong}/items/{wrong}", None),
            ("GET", f"{made}/items/{wrong}", None),
            ("DELETE", f"{made}/items/{wrong}", None),
            ("POST", f"{wrong}/fork", None),
            ("POST", f"{made}/fork", {"after_run_id": wrong}),
            ("POST", f"{made}/fork", {"after_response_id": wrong}),
            ("POST", f"{wrong}/share", None),
            ("GET", f"{wrong}/shares", None),
            ("DELETE", f"{made}/shares/{wrong}", None),
            ("GET", f"{wrong}/export", None),
        ]:
            reply = await demo.http.request(method, f"/v1/conversations/{path}", json=body)
            assert reply.status_code == 404, (method, path, reply.text)
            assert len(reply.content) < 500
