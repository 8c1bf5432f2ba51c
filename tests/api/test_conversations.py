"""`/api/conversations`: pages, search, files, deletion, and nothing of anybody else."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.serving import Chatter, Served, says, scripted

WITH_SESSION = [
    ("GET", "/api/conversations"),
    ("GET", "/api/conversations/search?q=x"),
    ("GET", "/api/conversations/conv_0"),
    ("GET", "/api/conversations/conv_0/export"),
    ("DELETE", "/api/conversations/conv_0"),
    ("GET", "/api/runs"),
    ("GET", "/api/runs/run_0"),
    ("GET", "/api/runs/run_0/events"),
    ("POST", "/api/runs/run_0/cancel"),
    ("GET", "/api/runs/run_0/approvals"),
    ("POST", "/api/runs/run_0/approvals"),
    ("GET", "/api/approvals"),
]


def test_every_route_that_names_a_thing_is_listed(demo: Served) -> None:
    """A new route under these prefixes has to join the tests below."""
    described = {
        (method.upper(), path.replace("{conversationId}", "conv_0").replace("{runId}", "run_0"))
        for path, operations in demo.app.openapi()["paths"].items()
        for method in operations
        if path.startswith(("/api/conversations", "/api/runs", "/api/approvals"))
    } - {("POST", "/api/runs")}  # its session is in the body
    assert described == {(method, path.partition("?")[0]) for method, path in WITH_SESSION}


@pytest.mark.parametrize(("method", "path"), WITH_SESSION)
async def test_without_a_session(demo: Served, method: str, path: str) -> None:
    for headers in ({}, {"X-Session-Id": ""}):
        reply = await demo.http.request(method, path, headers=headers)
        assert reply.status_code == 401
        error = reply.json()["error"]
        assert (error["code"], error["type"], error["param"]) == (
            "session_required",
            "invalid_request_error",
            "X-Session-Id",
        )


@pytest.mark.parametrize(("method", "path"), WITH_SESSION)
async def test_with_a_session_that_does_not_exist(demo: Served, method: str, path: str) -> None:
    reply = await demo.http.request(method, path, headers={"X-Session-Id": "sess_0"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "session_not_found")


async def test_pages(demo: Served) -> None:
    opened = [await demo.session(userId="ada") for _ in range(5)]
    newest_first = [chatter.conversation_id for chatter in reversed(opened)]
    seen: list[str] = []
    after, pages = "", 0
    while True:
        page = (await opened[0].ask("GET", f"/api/conversations?limit=2{after}")).json()
        assert page["object"] == "list"
        seen += [entry["id"] for entry in page["data"]]
        pages += 1
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert (seen, pages) == (newest_first, 3)


async def test_an_empty_page(demo: Served) -> None:
    chatter = await demo.session()
    page = (await chatter.ask("GET", "/api/conversations?after=conv_0")).json()
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=", "limit=1.5"])
async def test_limits(demo: Served, query: str) -> None:
    chatter = await demo.session()
    for path in ("/api/conversations", "/api/conversations/search"):
        reply = await chatter.ask("GET", f"{path}?q=x&{query}")
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "limit"


async def test_show(serve: Callable[..., Any]) -> None:
    chatter = await (await serve(scripted(says("Paris.")))).session()
    await chatter.chat("The capital of France?")
    view = (await chatter.ask("GET", f"/api/conversations/{chatter.conversation_id}")).json()
    assert (view["object"], view["id"], view["title"]) == (
        "conversation",
        chatter.conversation_id,
        "The capital of France?",
    )
    assert (view["runCount"], view["messageCount"], view["agent"], view["lastAgent"]) == (1, 2, "helper", "helper")
    assert [(message["position"], message["role"], message["text"]) for message in view["messages"]] == [
        (1, "user", "The capital of France?"),
        (2, "assistant", "Paris."),
    ]


async def test_search(demo: Served) -> None:
    chatter = await demo.session()
    await chatter.chat("the needle in the hay")
    found = (await chatter.ask("GET", "/api/conversations/search?q=NEEDLE%20hay")).json()
    assert {hit["conversationId"] for hit in found["data"]} == {chatter.conversation_id}
    assert (await chatter.ask("GET", "/api/conversations/search?q=cow")).json()["data"] == []
    for query, param in [("", "q"), ("?q=", "q"), ("?q=%20", "q"), (f"?q={'x' * 501}", "q")]:
        reply = await chatter.ask("GET", f"/api/conversations/search{query}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_export_as_lines(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("Grüße 🙂")))
    chatter = await served.session()
    await chatter.chat("hello")
    for path in ("export", "export?format=jsonl"):
        reply = await chatter.ask("GET", f"/api/conversations/{chatter.conversation_id}/{path}")
        assert reply.headers["content-type"] == "application/jsonl; charset=utf-8"
        assert reply.headers["content-disposition"] == f'attachment; filename="{chatter.conversation_id}.jsonl"'
        assert [json.loads(line) for line in reply.text.splitlines()] == served.history(chatter.conversation_id)


async def test_export_as_markdown(serve: Callable[..., Any]) -> None:
    chatter = await (await serve(scripted(says("Grüße 🙂")))).session()
    await chatter.chat("hello")
    reply = await chatter.ask("GET", f"/api/conversations/{chatter.conversation_id}/export?format=markdown")
    assert reply.headers["content-type"] == "text/markdown; charset=utf-8"
    assert reply.headers["content-disposition"] == f'attachment; filename="{chatter.conversation_id}.md"'
    assert "Grüße 🙂" in reply.text
    wrong = await chatter.ask("GET", f"/api/conversations/{chatter.conversation_id}/export?format=pdf")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "format")


async def test_delete(demo: Served) -> None:
    chatter = await demo.session()
    await chatter.chat("forget me")
    path = f"/api/conversations/{chatter.conversation_id}"
    reply = await chatter.ask("DELETE", path)
    assert reply.json() == {"id": chatter.conversation_id, "object": "conversation.deleted", "deleted": True}
    assert demo.history(chatter.conversation_id) == []
    assert demo.rows("SELECT id FROM agent_runs") == []
    assert len(demo.rows("SELECT * FROM agent_run_usage")) == 1  # the bill stays
    other = await demo.session()
    assert (await other.ask("DELETE", path)).status_code == 404


async def ids(chatter: Chatter) -> list[str]:
    return [entry["id"] for entry in (await chatter.ask("GET", "/api/conversations")).json()["data"]]


@pytest.mark.parametrize("other", [{"tenantId": "beta", "userId": "ada"}, {"tenantId": "acme", "userId": "bob"}])
async def test_conversations_of_others_do_not_exist(demo: Served, other: dict[str, str]) -> None:
    ada, stranger = await demo.session(tenantId="acme", userId="ada"), await demo.session(**other)
    await ada.chat("a needle")
    assert await ids(stranger) == [stranger.conversation_id]
    assert (await stranger.ask("GET", "/api/conversations/search?q=needle")).json()["data"] == []
    for method, path in [("GET", ""), ("GET", "/export"), ("GET", "/export?format=markdown"), ("DELETE", "")]:
        reply = await stranger.ask(method, f"/api/conversations/{ada.conversation_id}{path}")
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (404, "conversation_not_found", "conversationId")
    assert await ids(ada) == [ada.conversation_id]


@pytest.mark.parametrize("wrong", ["conv_nope", "%00", "..%2f..", "conv_%0d%0aset-cookie:x", "x" * 300])
async def test_ids_of_nothing(demo: Served, wrong: str) -> None:
    chatter = await demo.session()
    for method, path in [("GET", ""), ("GET", "/export"), ("DELETE", "")]:
        reply = await chatter.ask(method, f"/api/conversations/{wrong}{path}")
        assert reply.status_code == 404
        assert len(reply.content) < 500
