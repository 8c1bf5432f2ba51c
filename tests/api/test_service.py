"""What every request meets, and the routes about the service itself."""

import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app import __version__
from app.api.application import create_app
from tests.api.asgi import request
from tests.api.serving import Served, says, scripted, settings_of

ENVELOPE = {"message", "type", "param", "code"}


async def test_health(demo: Served) -> None:
    assert (await demo.http.get("/healthz")).json() == {"status": "ok"}
    assert (await demo.http.get("/readyz")).json() == {"ready": True, "database": "ok"}
    for path in ("/healthz", "/readyz"):
        assert (await demo.http.head(path)).status_code == 200


async def test_health_does_not_need_the_system() -> None:
    app = create_app(settings=settings_of("sqlite:///nowhere/at/all.db"))
    async with request(app, "GET", "/healthz") as sent:
        assert await sent.head() == 200


async def test_the_front_page(demo: Served) -> None:
    page = (await demo.http.get("/")).json()
    assert (page["name"], page["version"], page["model"]) == ("durable-agents", __version__, "demo")
    assert "demo model" in page["note"]
    for link in page["links"].values():
        assert (await demo.http.get(link)).status_code != 404


async def test_the_front_page_with_a_real_endpoint(serve: Callable[..., Any]) -> None:
    served = await serve(openai={"api_key": "sk-of-the-test-0123456789"})
    page = (await served.http.get("/")).json()
    assert "note" not in page
    assert page["model"] == "gpt-5.4-mini"
    assert "sk-of" not in json.dumps(page)


async def test_agents_and_tools(demo: Served) -> None:
    agents = (await demo.http.get("/api/agents")).json()
    assert [(agent["key"], agent["default"], agent["model"]) for agent in agents["data"]] == [
        ("demo", True, "demo"),
        ("poet", False, "demo"),
    ]
    assert agents["data"][0]["lastSeen"] is None
    await (await demo.session()).chat("hi")
    assert (await demo.http.get("/api/agents")).json()["data"][0]["lastSeen"].endswith("Z")
    tools = (await demo.http.get("/api/tools")).json()
    assert [tool["name"] for tool in tools["data"]] == [
        "get_current_time",
        "get_weather",
        "search_conversations",
        "send_postcard",
    ]
    assert all(tool["object"] == "tool" and tool["agents"] == ["demo"] for tool in tools["data"])


async def test_every_reply_has_an_id_and_its_headers(demo: Served) -> None:
    for method, path in [("GET", "/healthz"), ("GET", "/nope"), ("PUT", "/api/chat"), ("POST", "/api/chat")]:
        reply = await demo.http.request(method, path)
        assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["x-request-id"])
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("given", ["abc-1._Z", "x" * 128])
async def test_a_request_id_is_echoed(demo: Served, given: str, quiet_logs: list[dict[str, Any]]) -> None:
    reply = await demo.http.get("/nope", headers={"x-request-id": given})
    assert reply.headers["x-request-id"] == given
    assert [line["request_id"] for line in quiet_logs if line["event"] == "http_request"] == [given]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\x7fb", "é"])
async def test_a_malformed_request_id_is_not(demo: Served, given: str) -> None:
    async with demo.request("GET", "/nope", headers=[(b"x-request-id", given.encode())]) as sent:
        await sent.head()
    assert sent.headers["x-request-id"].startswith("req_")


async def test_the_log_has_the_run_and_no_session(demo: Served, quiet_logs: list[dict[str, Any]]) -> None:
    chatter = await demo.session()
    await demo.http.get(f"/api/conversations?sessionId={chatter.session_id}")
    reply = await demo.http.post("/api/chat", json={"sessionId": chatter.session_id, "message": "private words"})
    run = next(line for line in quiet_logs if line["event"] == "run_ended")
    assert run["request_id"] == reply.headers["x-request-id"]
    written = json.dumps(quiet_logs, default=str)
    assert chatter.session_id not in written
    assert "private words" not in written


@pytest.mark.parametrize(
    "path",
    ["/nope", "/api", "/api/chat/", "/docs/", "/docs/nope.js", "/redoc", "/api/conversation", "//", "/%0a%1b[31m"],
)
async def test_unknown_routes(demo: Served, path: str) -> None:
    reply = await demo.http.get(f"http://localhost:8000{path}")
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert set(error) == ENVELOPE
    assert error["code"] == "unknown_url"
    assert error["message"].isprintable()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/chat", "POST"),
        ("DELETE", "/api/session", "POST"),
        ("POST", "/api/agents", "GET"),
        ("OPTIONS", "/api/chat", "POST"),
    ],
)
async def test_wrong_methods(demo: Served, method: str, path: str, allowed: str) -> None:
    reply = await demo.http.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"nope", "invalid_json"),
        (b'{"message": "\xff"}', "invalid_body"),
        (b"[" * 100_000, "invalid_body"),
        (b"[]", "invalid_body"),
        (b'"text"', "invalid_body"),
        (b"null", "invalid_body"),
        (b"7", "invalid_body"),
        (b"", "invalid_body"),
    ],
)
async def test_bodies_that_are_no_object(demo: Served, body: bytes, code: str) -> None:
    for path in ("/api/chat", "/api/chat/stream", "/api/session"):
        reply = await demo.http.post(path, content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 400, reply.text
        assert set(reply.json()["error"]) == ENVELOPE
        assert reply.json()["error"]["code"] == code


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json"])
async def test_only_json(demo: Served, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    reply = await demo.http.post("/api/session", content=b"{}", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"])
async def test_json_by_another_name(demo: Served, kind: str) -> None:
    reply = await demo.http.post("/api/session", content=b"{}", headers={"content-type": kind})
    assert reply.status_code == 201


async def test_a_body_that_is_announced_too_large_is_not_read(demo: Served) -> None:
    async with demo.request("POST", "/api/chat", chunks=[b"x" * 2_000_000]) as sent:
        assert await sent.head() == 413
        assert b"body_too_large" in await sent.body()
    assert sent.chunks_read == 0


async def test_a_chunked_body_is_read_no_further_than_the_limit(demo: Served) -> None:
    async with demo.request("POST", "/api/chat", chunks=[b"x" * 100_000] * 20) as sent:
        assert await sent.head() == 413
        error = json.loads(await sent.body())["error"]
    assert error["code"] == "body_too_large"
    assert sent.chunks_read == 12  # the limit is 1,100,000 bytes


async def test_a_chunked_body_within_the_limit(demo: Served) -> None:
    async with demo.request("POST", "/api/session", chunks=[b'{"tenant', b'Id": "acme"', b"}"]) as sent:
        assert await sent.head() == 201


async def test_a_message_of_two_megabytes(demo: Served) -> None:
    reply = await (await demo.session()).chat("x" * 2_000_000)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


HOSTS = ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000", "localhost."]


@pytest.mark.parametrize("host", HOSTS)
async def test_hosts_that_are_this_machine(demo: Served, host: str) -> None:
    async with demo.request("GET", "/healthz", headers=[(b"host", host.encode())]) as sent:
        assert await sent.head() == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        "localhost@evil.example",
        "[::2]",
        "127.0.0.1.nip.io",
        "[",
        "localhost:x",
        "0.0.0.0",
    ],
)
async def test_hosts_that_are_not(demo: Served, host: str) -> None:
    """A page of a stranger that made its own name point here (DNS rebinding) names that name."""
    async with demo.request("GET", "/healthz", headers=[(b"host", host.encode())]) as sent:
        assert await sent.head() == 421
        assert json.loads(await sent.body())["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 201),
        ("HTTP://LOCALHOST:8000", 201),
        ("http://evil.example", 403),
        ("http://localhost:3000", 403),
        ("http://localhost", 403),
        ("http://localhost:8000.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
    ],
)
async def test_origins(demo: Served, origin: str, status: int) -> None:
    reply = await demo.http.post("/api/session", json={}, headers={"origin": origin})
    assert reply.status_code == status
    if status == 403:
        assert reply.json()["error"]["code"] == "origin_not_allowed"
    assert (await demo.http.get("/healthz", headers={"origin": origin})).status_code == 200


async def test_a_fault_of_ours(serve: Callable[..., Any], quiet_logs: list[dict[str, Any]]) -> None:
    served = await serve(scripted(says("hi")))

    @served.app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("postgresql://user:secret@host")

    reply = await served.http.get("/broken")
    assert reply.status_code == 500
    error = reply.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "internal_error", None)
    assert reply.headers["x-request-id"] in error["message"]
    assert "secret" not in reply.text
    (line,) = [line for line in quiet_logs if line["event"] == "request_failed"]
    assert line["request_id"] == reply.headers["x-request-id"]


async def test_an_app_that_was_not_started(quiet_logs: list[dict[str, Any]]) -> None:
    app = create_app(settings=settings_of("sqlite://"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as http:
        reply = await http.get("/api/agents")
    assert reply.status_code == 500
    assert "lifespan" in str(next(line for line in quiet_logs if line["event"] == "request_failed")["exc_info"])


async def test_mounted_in_another_app(demo: Served) -> None:
    outer = FastAPI()
    outer.mount("/ai", demo.app)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(outer), base_url="http://localhost") as http:
        assert (await http.post("/ai/api/session", json={})).status_code == 201
        assert (await http.get("/ai/nope")).json()["error"]["code"] == "unknown_url"


async def test_the_description(demo: Served) -> None:
    document = (await demo.http.get("/openapi.json")).json()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert name in schemas, name
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], (method, path)
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorEnvelope"}
            assert operation["summary"]
            for status, reply in operation["responses"].items():
                for kind, described in reply.get("content", {}).items():
                    if kind == "application/json":
                        assert described["schema"].keys() <= {"$ref", "anyOf"}, (method, path, status)
    assert set(schemas["ErrorBody"]["required"]) == ENVELOPE
    assert "runId" in schemas["RunReply"]["properties"]
    assert set(schemas["ChatRequest"]["required"]) == {"sessionId", "message"}
    assert schemas["ChatRequest"]["additionalProperties"] is False
    assert "201" in document["paths"]["/api/session"]["post"]["responses"]
    for path, method in (("/api/chat", "post"), ("/api/chat/stream", "post"), ("/api/runs", "post")):
        names = [parameter["name"] for parameter in document["paths"][path][method]["parameters"]]
        assert names == ["Idempotency-Key"]
    assert "202" in document["paths"]["/api/chat"]["post"]["responses"]
    assert "200" not in document["paths"]["/api/runs"]["post"]["responses"]
    assert "onBusy" in schemas["ChatOptions"]["properties"]
    assert "stream" not in schemas["ChatRequest"]["properties"]
    assert "waiting" in schemas["RunReply"]["properties"]["status"]["enum"]
    assert schemas["DecisionBody"]["required"] == ["callId", "approve"]
    assert "text/event-stream" in document["paths"]["/api/chat/stream"]["post"]["responses"]["200"]["content"]
