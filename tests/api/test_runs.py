"""`/api/runs` and what every start can say: runs in the background, idempotency keys, busy conversations, lists."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from agents import function_tool
from fastapi import FastAPI

from tests.api.asgi import told
from tests.api.serving import Chatter, Gate, Served, calls, says, scripted

STARTS = ("/api/runs", "/api/chat", "/api/chat/stream")


def gated(gate: Gate, *after: Any) -> Any:
    """An agent that stands at the gate before it answers."""
    return scripted(calls("wait_at_gate"), *after, tools=[function_tool(gate.wait_at_gate)])


async def post(chatter: Chatter, path: str = "/api/runs", message: str = "hello", **fields: Any) -> Any:
    """Start a run; `key` is the idempotency key."""
    key = fields.pop("key", None)
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"sessionId": chatter.session_id, "message": message, **fields}
    return await chatter.served.http.post(path, json=body, headers=headers)


async def ended(chatter: Chatter, run_id: str) -> Any:
    """Wait for the end of a run and return how it stands."""
    async with chatter.events(run_id) as reader:
        await reader.body()
    return (await chatter.ask("GET", f"/api/runs/{run_id}")).json()


async def test_a_run_in_the_background(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate, says("done")))
    chatter = await served.session()
    reply = await post(chatter)
    started = reply.json()
    assert reply.status_code == 202
    assert reply.headers["location"] == f"/api/runs/{started['runId']}"
    assert "idempotent-replayed" not in reply.headers
    assert started["conversationId"] == chatter.conversation_id
    assert started["status"] in {"queued", "running"}
    await gate.reached.wait()
    assert (await chatter.ask("GET", reply.headers["location"])).json() == {**started, "status": "running"}
    gate.open.set()
    end = await ended(chatter, started["runId"])
    assert (end["status"], end["output"], end["approvals"]) == ("completed", "done", [])


@pytest.mark.parametrize("stream", [True, False])
async def test_a_background_run_streams_unless_told_otherwise(demo: Served, stream: bool) -> None:
    chatter = await demo.session()
    run_id = (await post(chatter, **({} if stream else {"stream": False}))).json()["runId"]
    async with chatter.events(run_id) as reader:
        types = [data["type"] for data in told(await reader.frames_until("run.completed"))]
    assert ("text.delta" in types) is stream


async def test_a_run_waits_for_its_turn(serve: Callable[..., Any]) -> None:
    gate = Gate()
    served = await serve(gated(gate, says("one"), says("two")))
    chatter = await served.session()
    first = (await post(chatter)).json()["runId"]
    await gate.reached.wait()
    second = (await post(chatter, message="second")).json()
    assert second["status"] == "queued"
    assert (await chatter.ask("GET", f"/api/runs/{second['runId']}")).json()["status"] == "queued"
    gate.open.set()
    assert (await ended(chatter, first))["output"] == "one"
    assert (await ended(chatter, second["runId"]))["output"] == "two"


@pytest.mark.parametrize("wrong", [0, "yes", None, []])
async def test_whether_to_stream_is_true_or_false(demo: Served, wrong: Any) -> None:
    reply = await post(await demo.session(), stream=wrong)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "stream")


@pytest.mark.parametrize("path", STARTS)
async def test_the_same_key_starts_one_run(demo: Served, path: str) -> None:
    chatter = await demo.session()
    first = await post(chatter, path, key="order-17")
    again = await post(chatter, path, key="order-17")
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.status_code == first.status_code
    (row,) = demo.rows("SELECT id FROM agent_runs")
    if path == "/api/chat":
        assert again.json() == first.json()
    else:
        assert row["id"] in again.text
    assert (await post(chatter, path, key="order-18")).status_code == first.status_code
    assert len(demo.rows("SELECT id FROM agent_runs")) == 2


async def test_a_replayed_stream_tells_everything_again(demo: Served) -> None:
    chatter = await demo.session()
    sent = {"sessionId": chatter.session_id, "message": "hello"}
    streams = []
    for _ in range(2):
        async with demo.request(
            "POST", "/api/chat/stream", json_body=sent, headers=[(b"idempotency-key", b"k")]
        ) as stream:
            streams.append(told(await stream.frames_until("run.completed")))
    assert streams[0] == streams[1]


async def test_a_failed_run_is_replayed_too(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(RuntimeError("broken"), says("never")))
    chatter = await served.session()
    first, again = [await post(chatter, "/api/chat", key="k") for _ in range(2)]
    assert (first.status_code, again.status_code) == (500, 500)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("path", STARTS)
async def test_a_key_stands_for_one_request(demo: Served, path: str) -> None:
    chatter = await demo.session()
    await post(chatter, path, key="k")
    reply = await post(chatter, path, key="k", message="something else")
    assert reply.status_code == 409
    error = reply.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (
        "idempotency_conflict",
        "invalid_request_error",
        "Idempotency-Key",
    )


async def test_a_key_belongs_to_its_organization(demo: Served) -> None:
    ada = await demo.session(tenantId="acme", userId="ada")
    first = (await post(ada, key="k")).json()["runId"]
    other = await post(await demo.session(tenantId="beta", userId="ada"), key="k")
    assert other.status_code == 202
    assert other.json()["runId"] != first
    colleague = await post(await demo.session(tenantId="acme", userId="bob"), key="k")
    assert (colleague.status_code, colleague.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert first not in colleague.text


@pytest.mark.parametrize("path", STARTS)
@pytest.mark.parametrize("key", [b"", b"x" * 256, b"tab\there", b"\x7f", b"\x85"])
async def test_keys_that_are_none(demo: Served, path: str, key: bytes) -> None:
    chatter = await demo.session()
    body = {"sessionId": chatter.session_id, "message": "hi"}
    async with demo.request("POST", path, json_body=body, headers=[(b"idempotency-key", key)]) as sent:
        assert await sent.head() == 400
        assert b'"param":"Idempotency-Key"' in await sent.body()
    assert demo.rows("SELECT id FROM agent_runs") == []


@pytest.mark.parametrize("key", ["k", "x" * 255, "order 17", "f\u00fcr Ada"])
async def test_keys_of_any_kind(demo: Served, key: str) -> None:
    chatter = await demo.session()
    body = {"sessionId": chatter.session_id, "message": "hi"}
    for status in ("", "true"):
        async with demo.request(
            "POST", "/api/runs", json_body=body, headers=[(b"idempotency-key", key.encode("latin-1"))]
        ) as sent:
            assert await sent.head() == 202
            assert sent.headers.get("idempotent-replayed", "") == status


@pytest.mark.parametrize("path", STARTS)
async def test_a_busy_conversation_refuses(serve: Callable[..., Any], path: str) -> None:
    gate = Gate()
    chatter = await (await serve(gated(gate, says("one")))).session()
    first = (await post(chatter)).json()["runId"]
    await gate.reached.wait()
    reply = await post(chatter, path, options={"onBusy": "reject"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conversation_busy")
    gate.open.set()
    await ended(chatter, first)
    assert len(chatter.served.rows("SELECT id FROM agent_runs")) == 1


async def test_a_new_input_interrupts(serve: Callable[..., Any]) -> None:
    gate = Gate()
    chatter = await (await serve(gated(gate, says("two")))).session()
    waiting = asyncio.create_task(post(chatter, "/api/chat"))
    await gate.reached.wait()
    second = await post(chatter, "/api/chat", message="rather this", options={"onBusy": "interrupt"})
    assert second.json()["output"] == "two"
    first = await waiting
    assert (first.status_code, first.json()["error"]["code"]) == (409, "run_cancelled")
    (listed,) = (await chatter.ask("GET", "/api/runs?status=cancelled")).json()["data"]
    assert (listed["runId"], listed["cancelReason"]) == (first.json()["run_id"], "interrupted")


@pytest.mark.parametrize("wrong", ["", "wait", 1, []])
async def test_what_to_do_when_busy_is_one_of_three(demo: Served, wrong: Any) -> None:
    reply = await post(await demo.session(), options={"onBusy": wrong})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "options.onBusy")


async def test_lists(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), says("two"), RuntimeError("broken")))
    chatter = await served.session(userId="ada")
    ran = [(await post(chatter, "/api/chat")).json() for _ in range(3)]
    runs = [reply.get("runId") or reply["run_id"] for reply in ran]
    whole = (await chatter.ask("GET", "/api/runs")).json()
    assert [run["runId"] for run in whole["data"]] == runs[::-1]
    assert (whole["object"], whole["has_more"], whole["first_id"], whole["last_id"]) == (
        "list",
        False,
        runs[2],
        runs[0],
    )
    latest = whole["data"][0]
    assert latest.keys() == {
        "object",
        "runId",
        "conversationId",
        "agent",
        "status",
        "attempts",
        "cancelReason",
        "errorCode",
        "createdAt",
        "startedAt",
        "finishedAt",
    }
    assert (latest["status"], latest["errorCode"], latest["attempts"]) == ("failed", "agent_failed", 1)
    assert latest["createdAt"] <= latest["startedAt"] <= latest["finishedAt"]

    page = (await chatter.ask("GET", "/api/runs?limit=2")).json()
    assert ([run["runId"] for run in page["data"]], page["has_more"]) == (runs[:0:-1], True)
    rest = (await chatter.ask("GET", f"/api/runs?limit=2&after={page['last_id']}")).json()
    assert ([run["runId"] for run in rest["data"]], rest["has_more"]) == (runs[:1], False)


async def test_lists_of_some(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), RuntimeError("broken"), says("three")))
    chatter, elsewhere = await served.session(userId="ada"), await served.session(userId="ada")
    for client in (chatter, chatter, elsewhere):
        await post(client, "/api/chat")

    async def listed(query: str) -> list[str]:
        reply = await chatter.ask("GET", f"/api/runs?{query}")
        assert reply.status_code == 200
        return [run["status"] for run in reply.json()["data"]]

    assert await listed("status=failed") == ["failed"]
    assert await listed("status=failed&status=completed") == ["completed", "failed", "completed"]
    assert await listed(f"conversationId={chatter.conversation_id}") == ["failed", "completed"]
    assert await listed(f"conversationId={elsewhere.conversation_id}&status=failed") == []
    for nothing in ("status=running", "conversationId=conv_0", "conversationId=%00", "after=run_0"):
        assert await listed(nothing) == []
    stranger = await served.session(userId="bob")
    assert (await stranger.ask("GET", "/api/runs")).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("status=done", "status.0"),
        ("status=", "status.0"),
    ],
)
async def test_lists_of_nothing_sensible(demo: Served, query: str, param: str) -> None:
    reply = await (await demo.session()).ask("GET", f"/api/runs?{query}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_the_place_of_a_run_in_a_mounted_app(demo: Served) -> None:
    outer = FastAPI()
    outer.mount("/ai", demo.app)
    session_id = (await demo.session()).session_id
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(outer), base_url="http://localhost") as http:
        reply = await http.post("/ai/api/runs", json={"sessionId": session_id, "message": "hi"})
        assert reply.headers["location"] == f"/ai/api/runs/{reply.json()['runId']}"
        shown = await http.get(reply.headers["location"], headers={"X-Session-Id": session_id})
    assert shown.status_code == 200
