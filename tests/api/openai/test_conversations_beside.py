"""What stands beside the platform's routes of conversations: list, search, fork, links, export; who sees what."""

import json
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest

from app.domain.models.access import ALL_SCOPES, NewKey
from app.infrastructure.clock import SystemClock
from tests.api.openai.response_clients import client_of
from tests.api.serving import Served, calls, says, scripted

Serve = Callable[..., Any]


def said(*texts: str) -> dict[str, Any]:
    return {"items": [{"role": "user", "content": text} for text in texts]}


async def opened(served: Served, *texts: str, **fields: Any) -> str:
    reply = await served.http.post("/v1/conversations", json={**said(*texts), **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()["id"]


async def get(served: Served, path: str, **options: Any) -> Any:
    reply = await served.http.get(f"/v1/conversations{path}", **options)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def pages(served: Served, path: str) -> list[Any]:
    """Every entry of a list, page by page."""
    entries: list[Any] = []
    after = ""
    while True:
        page = await get(served, f"{path}{after}")
        assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
        entries += page["data"]
        if not page["has_more"]:
            return entries
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        after = f"&after={page['last_id']}"


def ids(entries: Iterable[Any]) -> list[str]:
    return [entry["id"] for entry in entries]


async def key_of(served: Served, user: str | None = None, organization: str = "acme") -> dict[str, str]:
    issued = await served.container.keys.create(
        NewKey(organization_id=organization, name="n", user_id=user, scopes=frozenset(ALL_SCOPES))
    )
    return {"authorization": f"Bearer {issued.secret}"}


async def test_lists(demo: Served) -> None:
    made = [await opened(demo, agent="demo" if number % 2 else None) for number in range(5)]
    assert ids(await pages(demo, "?limit=2")) == made[::-1]
    assert ids(await pages(demo, "?limit=2&order=asc")) == made
    assert ids(await pages(demo, "?agent=demo")) == [made[3], made[1]]
    assert await get(demo, "?user=nobody") == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    (entry, *_) = await pages(demo, "?limit=1")
    assert entry.keys() >= {"id", "object", "created_at", "metadata", "title", "agent", "last_agent", "updated_at"}


async def test_search(demo: Served) -> None:
    made = await opened(demo, "a needle in the hay", "nothing", *(f"straw {number}" for number in range(5)))
    (hit,) = await pages(demo, "/search?q=NEEDLE")
    assert (hit["conversation_id"], hit["title"], hit["snippet"]) == (
        made,
        "a needle in the hay",
        "a needle in the hay",
    )
    assert hit["message"].keys() == {"position", "role", "text", "agent", "run_id", "created_at"}
    assert len(set(ids(await pages(demo, "/search?q=straw&limit=2")))) == 5
    assert await pages(demo, "/search?q=cow") == []
    for query, param in [
        ("", "q"),
        ("?q=", "q"),
        ("?q=%20", "q"),
        (f"?q={'x' * 501}", "q"),
        ("?q=straw&after=x", "after"),
        ("?q=straw&limit=0", "limit"),
    ]:
        reply = await demo.http.get(f"/v1/conversations/search{query}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_a_fork_goes_on_from_where_it_was_made(serve: Serve) -> None:
    served = await serve(scripted(says("One."), says("Two."), says("Other."), says("Again.")))
    client = client_of(served)
    made = await client.conversations.create()
    first = await client.responses.create(model="helper", input="1", conversation=made.id)
    await client.responses.create(model="helper", input="2", conversation=made.id)
    for body in ({"after_response_id": first.id}, {"after_run_id": first.id.replace("resp_", "run_")}):
        reply = await served.http.post(f"/v1/conversations/{made.id}/fork", json=body)
        assert reply.status_code == 200, reply.text
        fork = reply.json()
        assert (fork["object"], fork["message_count"], fork["run_count"], fork["title"]) == ("conversation", 2, 0, "1")
        answer = await client.responses.create(model="helper", input="2'", conversation=fork["id"])
        items = [item async for item in client.conversations.items.list(fork["id"], order="asc")]
        assert [item.content[0].text for item in items] == ["1", "One.", "2'", answer.output_text]  # type: ignore[union-attr]
    (_, second, *_) = [item async for item in client.conversations.items.list(made.id, order="asc")]
    reply = await served.http.post(f"/v1/conversations/{made.id}/fork", json={"after_item_id": second.id})
    assert reply.json()["message_count"] == 2
    assert (await served.http.post(f"/v1/conversations/{made.id}/fork")).json()["message_count"] == 4


async def test_points_of_a_fork_that_cannot_be(serve: Serve) -> None:
    served = await serve(scripted(says("One.")))
    client = client_of(served)
    response = await client.responses.create(model="helper", input="1")
    made = await opened(served, "x")
    for body, status, param in [
        ({"after_item_id": "msg_nope"}, 400, "after_item_id"),
        ({"after_run_id": "run_nope"}, 404, "after_run_id"),
        ({"after_response_id": "resp_nope"}, 404, "after_response_id"),
        ({"after_response_id": response.id}, 404, "after_response_id"),  # of another conversation
        ({"after_run_id": "run_1", "after_item_id": "msg_1"}, 400, "after_run_id"),
        ({"after": "msg_1"}, 400, "after"),
        ({"after_item_id": 1}, 400, "after_item_id"),
    ]:
        reply = await served.http.post(f"/v1/conversations/{made}/fork", json=body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text


async def test_a_link_shows_messages_and_nothing_else(serve: Serve, quiet_logs: list[dict[str, Any]]) -> None:
    served = await serve(scripted(calls("add", '{"a":1,"b":2}'), says("Three."), tools=[_add()]))
    client = client_of(served)
    made = await client.conversations.create(metadata={"secret": "metadata"})
    await client.responses.create(model="helper", input="1+2?", conversation=made.id, metadata={"secret": "metadata"})
    reply = await served.http.post(f"/v1/conversations/{made.id}/share", json={"expires_in_s": 60})
    share = reply.json()
    assert reply.headers["cache-control"] == "no-store"
    assert share["expires_at"] - share["created_at"] == 60
    assert share["token"] not in json.dumps(served.rows("SELECT * FROM conversation_shares"))
    (listed,) = await pages(served, f"/{made.id}/shares?limit=9")
    assert listed == {name: share[name] for name in ("id", "object", "conversation_id", "created_at", "expires_at")}

    shown = await served.http.get(share["path"])
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "no-referrer"
    body = shown.json()
    assert body.keys() == {
        "object",
        "title",
        "created_at",
        "expires_at",
        "data",
        "first_id",
        "last_id",
        "has_more",
    }
    assert [(entry["role"], entry["text"]) for entry in body["data"]] == [("user", "1+2?"), ("assistant", "Three.")]
    assert all(entry.keys() == {"id", "role", "text", "created_at"} for entry in body["data"])
    assert "metadata" not in shown.text
    assert made.id not in shown.text
    page = (await served.http.get(f"{share['path']}?limit=1&after=1")).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("2", "2", False)
    assert share["token"] not in json.dumps(quiet_logs, default=str)

    gone = await served.http.delete(f"/v1/conversations/{made.id}/shares/{share['id']}")
    assert gone.json() == {"id": share["id"], "object": "conversation.share.deleted", "deleted": True}
    nothing = (await served.http.get(share["path"])).json()
    assert nothing == (await served.http.get("/v1/shared/shr_nope")).json()
    assert nothing["error"]["code"] == "share_not_found"


def _add() -> Any:
    from tests.api.openai.response_clients import add

    return add


async def test_a_link_expires(demo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await opened(demo, "hello")
    share = (await demo.http.post(f"/v1/conversations/{made}/share")).json()
    assert share["expires_at"] - share["created_at"] == 7 * 24 * 3600
    assert (await demo.http.get(share["path"])).status_code == 200
    now = SystemClock().now()
    monkeypatch.setattr(SystemClock, "now", lambda _: now + timedelta(days=8))
    assert (await demo.http.get(share["path"])).status_code == 404
    assert (await get(demo, f"/{made}/shares"))["data"] == []


async def test_links_that_cannot_be(demo: Served) -> None:
    for token in ("shr_nope", "%00", "%ed%a0%80", "x" * 300, "..%2fconversations"):
        reply = await demo.http.get(f"/v1/shared/{token}")
        assert reply.status_code == 404
        assert len(reply.content) < 400
    made = await opened(demo, "x")
    share = (await demo.http.post(f"/v1/conversations/{made}/share")).json()
    for after in ("x", "-1", "1.5", "9" * 30, "²"):
        reply = await demo.http.get(share["path"], params={"after": after})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")
    for lifetime in (0, -1, 367 * 24 * 3600, "1", 1.5, True):
        reply = await demo.http.post(f"/v1/conversations/{made}/share", json={"expires_in_s": lifetime})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "expires_in_s")


async def test_a_link_needs_no_key_and_everything_else_does(demo: Served) -> None:
    key = await key_of(demo, "ada")
    reply = await demo.http.post("/v1/conversations", json=said("hello"), headers=key)
    path = f"/v1/conversations/{reply.json()['id']}"
    share = (await demo.http.post(f"{path}/share", headers=key)).json()
    assert (await demo.http.get(share["path"])).status_code == 200
    assert (await demo.http.get(share["path"], headers={"authorization": "Bearer sk-wrong"})).status_code == 200
    for method, rest in [("GET", ""), ("GET", "/shares"), ("POST", "/share"), ("DELETE", f"/shares/{share['id']}")]:
        assert (await demo.http.request(method, f"{path}{rest}")).status_code == 401


async def test_export(serve: Serve) -> None:
    served = await serve(scripted(says("Grüße 🙂")))
    client = client_of(served)
    made = await client.conversations.create()
    await client.responses.create(model="helper", input="hello", conversation=made.id)
    for query in ("", "?format=jsonl"):
        reply = await served.http.get(f"/v1/conversations/{made.id}/export{query}")
        assert reply.headers["content-type"] == "application/jsonl; charset=utf-8"
        assert reply.headers["content-disposition"] == f'attachment; filename="{made.id}.jsonl"'
        assert [json.loads(line) for line in reply.text.splitlines()] == served.history(made.id)
    reply = await served.http.get(f"/v1/conversations/{made.id}/export?format=markdown")
    assert reply.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "Grüße 🙂" in reply.text
    wrong = await served.http.get(f"/v1/conversations/{made.id}/export?format=pdf")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "format")


@pytest.mark.parametrize("stranger", [("bob", "acme"), ("ada", "globex"), (None, "globex")])
async def test_conversations_of_others_do_not_exist(demo: Served, stranger: tuple[str | None, str]) -> None:
    ada, other = await key_of(demo, "ada"), await key_of(demo, *stranger)
    made = (await demo.http.post("/v1/conversations", json=said("a needle"), headers=ada)).json()["id"]
    (item,) = (await get(demo, f"/{made}/items", headers=ada))["data"]
    share = (await demo.http.post(f"/v1/conversations/{made}/share", headers=ada)).json()
    before = demo.rows("SELECT * FROM agent_conversations")
    assert (await get(demo, "", headers=other))["data"] == []
    assert (await get(demo, "?user=ada", headers=other))["data"] == []
    assert (await get(demo, "/search?q=needle", headers=other))["data"] == []
    described = {
        (method.upper(), path)
        for path, operations in demo.app.openapi()["paths"].items()
        for method in operations
        if path.startswith("/v1/conversations/{")
    }
    assert len(described) == 12
    for method, path in described:
        named = path.replace("{conversationId}", made).replace("{itemId}", item["id"]).replace("{shareId}", share["id"])
        body = {"items": said("x")["items"]} if path.endswith("/items") else {"title": "mine"}
        sent = {"json": body} if method == "POST" and not path.endswith(("fork", "share")) else {}
        reply = await demo.http.request(method, named, headers=other, **sent)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (404, "conversation_not_found"), (method, path)
    assert demo.rows("SELECT * FROM agent_conversations") == before
    assert (await demo.http.get(share["path"])).status_code == 200


async def test_an_organization_sees_every_users(demo: Served) -> None:
    whole, ada, bob = await key_of(demo), await key_of(demo, "ada"), await key_of(demo, "bob")
    for key in (ada, bob):
        await demo.http.post("/v1/conversations", json=said("a needle"), headers=key)
    assert {entry["user"] for entry in (await get(demo, "", headers=whole))["data"]} == {"ada", "bob"}
    assert [entry["user"] for entry in (await get(demo, "?user=bob", headers=whole))["data"]] == ["bob"]
    assert (await get(demo, "?user=bob", headers=ada))["data"] == []
    assert len((await get(demo, "/search?q=needle", headers=whole))["data"]) == 2
