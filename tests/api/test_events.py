"""Events from outside: every form they come in, whose they are, and what browsers need."""

import gzip
import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from app.domain.models.access import ALL_SCOPES, NewKey
from app.domain.scrubbing import CONTENT_FIELDS
from tests.api.serving import Served

GATEWAY = {
    "event_type": "session.completed",
    "session_id": "chatcmpl-1",
    "user_id": "ada",
    "organization_id": "acme",
    "usage": {"input_tokens": 12, "output_tokens": 30, "total_tokens": 42, "model": "gpt-4"},
    "outcome": {"status": "success"},
}
WEB = {
    "event_type": "session.completed",
    "session_id": "web-1",
    "session_type": "chat",
    "duration_ms": 93_000,
    "message_count": 6,
    "outcome": {"status": "user_terminated"},
}
CLOUD = {
    "specversion": "1.0",
    "id": "ce-1",
    "source": "/billing/7",
    "type": "com.example.run.failed",
    "time": "2026-11-21T10:00:00Z",
    "subject": "job-9",
    "data": {"error_code": "boom"},
}
ORIGIN = "https://app.example.org"


async def bearer(served: Served, organization: str = "acme", **values: Any) -> dict[str, str]:
    """Make a key; gives the header."""
    scopes = values.pop("scopes", frozenset({"events:write", "events:read"}))
    new = NewKey(organization_id=organization, name="capture", scopes=scopes, **values)
    return {"authorization": f"Bearer {(await served.container.keys.create(new)).secret}"}


async def post(served: Served, body: Any, **headers: str) -> httpx2.Response:
    return await served.http.post("/v1/events", json=body, headers=headers)


def error_of(reply: httpx2.Response) -> tuple[int, str, str | None]:
    error = reply.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return reply.status_code, error["code"], error["param"]


def rows(served: Served) -> list[dict[str, Any]]:
    return served.rows("SELECT * FROM completion_events WHERE source IS NOT NULL ORDER BY created_at")


async def test_one_event_is_recorded_once(demo: Served) -> None:
    headers = await bearer(demo)
    sent = {**GATEWAY, "event_id": "call-1"}
    for accepted in (1, 0):
        reply = await post(demo, sent, **headers)
        assert reply.status_code == 202
        assert reply.json() == {
            "object": "event.intake",
            "accepted": accepted,
            "duplicates": 1 - accepted,
            "event_ids": ["call-1"],
            "refused": [],
        }
    (row,) = rows(demo)
    assert (row["organization_id"], row["user_id"], row["session_id"]) == ("acme", "ada", "chatcmpl-1")
    assert (row["source"], row["run_id"], row["outcome"]) == ("http", None, "success")
    payload = json.loads(row["payload"])
    assert payload["usage"]["total_tokens"] == 42
    assert payload["models"] == ["gpt-4"]
    assert payload["api_key_id"].startswith("key_")


async def test_a_batch_takes_what_is_right(demo: Served) -> None:
    wrong = {"session_id": "x", "usage": {"input_tokens": -1}}
    reply = await post(demo, {"events": [GATEWAY, wrong, WEB, 7, {"user_id": "nobody"}]}, **await bearer(demo))
    told = reply.json()
    assert (reply.status_code, told["accepted"], told["duplicates"], len(told["event_ids"])) == (202, 2, 0, 2)
    assert [(one["index"], one["code"], one["param"]) for one in told["refused"]] == [
        (1, "invalid_event", "usage.input_tokens"),
        (3, "invalid_event", None),
        (4, "invalid_event", "session_id"),
    ]
    assert [row["id"] for row in rows(demo)] == told["event_ids"]  # in the order of the batch
    empty = await post(demo, {"events": []}, **await bearer(demo))
    assert (empty.status_code, empty.json()["accepted"]) == (202, 0)


async def test_cloud_events_in_all_three_modes(demo: Served) -> None:
    headers = await bearer(demo)
    structured = {**headers, "content-type": "application/cloudevents+json; charset=utf-8"}
    reply = await demo.http.post("/v1/events", content=json.dumps(CLOUD), headers=structured)
    assert (reply.status_code, reply.json()["event_ids"]) == (202, ["ce-1"])
    batch = {**headers, "content-type": "application/cloudevents-batch+json"}
    events = [{**CLOUD, "id": "ce-2", "type": "session.completed", "data": GATEWAY}, CLOUD, {"specversion": "1.0"}]
    reply = await demo.http.post("/v1/events", content=json.dumps(events), headers=batch)
    told = reply.json()
    assert (told["accepted"], told["duplicates"], [one["index"] for one in told["refused"]]) == (1, 1, [2])
    binary = {"ce-specversion": "1.0", "ce-id": "ce-3", "ce-type": "session.completed", "ce-source": "/x"}
    reply = await post(demo, {"sessionId": "s", "eventId": "own"}, **headers, **binary)
    assert reply.json()["event_ids"] == ["own"]  # what the data say counts
    first = rows(demo)[0]
    assert (first["type"], first["outcome"], first["session_id"]) == ("run.failed", "error", "job-9")
    payload = json.loads(first["payload"])
    assert payload["occurred_at"] == "2026-11-21T10:00:00+00:00"
    assert payload["attributes"]["cloud_event"] == {"source": "/billing/7", "subject": "job-9"}
    for body in ("{}", "7"):
        reply = await demo.http.post("/v1/events", content=body, headers=batch)
        assert error_of(reply) == (400, "invalid_body", None)


async def test_a_compressed_body_is_inflated_within_bounds(serve: Callable[..., Any]) -> None:
    served = await serve(server={"max_body_bytes": 20_000})
    headers = {**await bearer(served), "content-type": "application/json", "content-encoding": "gzip"}
    packed = gzip.compress(json.dumps({"events": [GATEWAY] * 50}).encode())
    reply = await served.http.post("/v1/events", content=packed, headers=headers)
    assert (reply.status_code, reply.json()["accepted"]) == (202, 50)
    bomb = gzip.compress(b'{"session_id": "' + b"x" * 5_000_000 + b'"}')
    assert len(bomb) < 20_000
    assert error_of(await served.http.post("/v1/events", content=bomb, headers=headers))[:2] == (413, "body_too_large")
    for content in (packed[:-9], b"no gzip"):
        reply = await served.http.post("/v1/events", content=content, headers=headers)
        assert error_of(reply) == (400, "invalid_body", "Content-Encoding")
    reply = await served.http.post("/v1/events", content=packed, headers={**headers, "content-encoding": "br"})
    assert error_of(reply)[:2] == (415, "unsupported_encoding")
    reply = await served.http.post("/v1/events", content=b"x" * 20_001, headers={**headers, "content-encoding": ""})
    assert error_of(reply)[0] == 413
    reply = await served.http.post("/v1/events", content=b"a=1", headers={**headers, "content-type": "text/csv"})
    assert error_of(reply)[0] == 415
    assert len(rows(served)) == 50


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "invalid_event", "session_id")),
        ({"session_id": ""}, (400, "invalid_event", "session_id")),
        ({"session_id": "a", "duration_ms": -1}, (400, "invalid_event", "duration_ms")),
        ({"session_id": "a", "outcome": "maybe"}, (400, "invalid_event", "outcome")),
        ({"session_id": "a", "event_id": "two words"}, (400, "invalid_event", "event_id")),
        ({"session_id": "a", "organization_id": "globex"}, (403, "organization_mismatch", "organization_id")),
        ({"session_id": "a", "metadata": {"x": "y" * 300_000}}, (413, "event_too_large", None)),
        ({"events": 7}, (400, "invalid_type", "events")),
        ({"events": [], "more": 1}, (400, "unknown_parameter", "more")),
        ({"events": [{}] * 1_001}, (400, "invalid_value", "events")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
async def test_what_is_wrong_is_named(demo: Served, body: Any, expected: tuple[int, str, str | None]) -> None:
    assert error_of(await post(demo, body, **await bearer(demo))) == expected
    assert rows(demo) == []


async def test_another_organizations_id_is_refused_and_stays_as_it_is(demo: Served) -> None:
    mine, theirs = await bearer(demo), await bearer(demo, "globex")
    assert (await post(demo, {**WEB, "event_id": "e-1"}, **mine)).status_code == 202
    before = rows(demo)
    reply = await post(demo, {"session_id": "other", "event_id": "e-1"}, **theirs)
    assert error_of(reply) == (409, "event_id_taken", "event_id")
    assert "acme" not in reply.text
    reply = await post(demo, {"events": [{"session_id": "s", "event_id": "e-1"}, {"session_id": "s"}]}, **theirs)
    told = reply.json()
    assert (told["accepted"], told["duplicates"]) == (1, 0)
    assert [(one["index"], one["code"]) for one in told["refused"]] == [(0, "event_id_taken")]
    # A worker of the application may have given it its place meanwhile.
    assert {**rows(demo)[0], "position": None} == {**before[0], "position": None}


async def test_a_key_of_one_user_reports_for_that_user(demo: Served) -> None:
    headers = await bearer(demo, user_id="ada")
    assert (await post(demo, WEB, **headers)).status_code == 202
    assert rows(demo)[0]["user_id"] == "ada"
    reply = await post(demo, {**WEB, "user_id": "eve"}, **headers)
    assert error_of(reply) == (403, "user_mismatch", "user_id")
    assert error_of(await demo.http.get("/v1/events/recent", headers=headers))[0] == 403


async def test_without_keys_an_event_says_whose_it_is(demo: Served) -> None:
    await post(demo, {"events": [GATEWAY, WEB, {"session_id": "s", "organization_id": "no good"}]})
    assert [row["organization_id"] for row in rows(demo)] == ["acme", "default"]
    listed = (await demo.http.get("/v1/events/recent")).json()["data"]
    assert [one["organization_id"] for one in listed] == ["default", "acme"]


async def test_recent_events_page_and_hold_no_content(demo: Served) -> None:
    headers, stranger = await bearer(demo), await bearer(demo, "globex")
    said = {"session_id": "agent_1", "outcome": {"status": "success", "final_output": "the secret answer"}}
    sent = (await post(demo, {"events": [GATEWAY, WEB, said]}, **headers)).json()["event_ids"]
    await post(demo, {**CLOUD["data"], "session_id": "x", "event_type": "run.failed"}, **stranger)
    first = (await demo.http.get("/events/recent?limit=2", headers=headers)).json()
    assert [one["id"] for one in first["data"]] == [sent[2], sent[1]]
    assert (first["object"], first["has_more"], first["last_id"]) == ("list", True, sent[1])
    assert "secret answer" not in json.dumps(first)
    assert not CONTENT_FIELDS & first["data"][0]["data"].keys()
    assert "secret answer" in rows(demo)[2]["payload"]  # it is stored: a destination may be allowed it
    rest = (await demo.http.get(f"/v1/events/recent?limit=2&after={sent[1]}", headers=headers)).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([sent[0]], False)
    failed = (await demo.http.get("/v1/events/recent?type=run.failed", headers=headers)).json()
    assert failed["data"] == []
    reply = await demo.http.get("/v1/events/recent?type=other", headers=headers)
    assert error_of(reply) == (400, "invalid_value", "type")


async def test_the_delivery_workers_are_woken(demo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[bool] = []
    monkeypatch.setattr(demo.container.completions.intake, "_on_recorded", lambda: woken.append(True))
    for expected in (1, 1):
        await post(demo, {**WEB, "event_id": "e-1"})
        assert len(woken) == expected


async def token_of(served: Served, headers: dict[str, str], **body: Any) -> str:
    reply = await served.http.post("/v1/events/tokens", json=body, headers=headers)
    assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store"), reply.text
    ends = datetime.fromtimestamp(reply.json()["expires_at"], UTC)
    assert timedelta() < ends - datetime.now(UTC) <= timedelta(seconds=body.get("expires_in_s", 900))
    return reply.json()["token"]


async def test_a_beacon_reports_with_a_token_and_nothing_else(demo: Served) -> None:
    token = await token_of(demo, await bearer(demo), user_id="ada", session_id="web-1")
    beacon = {"content-type": "text/plain;charset=UTF-8", "origin": ORIGIN, "host": "agents.example.org"}
    text = json.dumps({"events": [{**WEB, "event_id": "b-1"}]})
    for accepted in (1, 0):
        reply = await demo.http.post(f"/v1/events?token={token}", content=text, headers=beacon)
        assert (reply.status_code, reply.json()["accepted"]) == (202, accepted), reply.text
    (row,) = rows(demo)
    assert (row["organization_id"], row["user_id"], row["source"]) == ("acme", "ada", "browser")
    shown = {"authorization": f"Bearer {token}"}
    assert (await post(demo, {**WEB, "session_id": "web-1"}, **shown)).status_code == 202
    reply = await post(demo, {**WEB, "session_id": "web-2"}, **shown)
    assert error_of(reply) == (403, "session_mismatch", "session_id")
    reply = await post(demo, {**WEB, "organization_id": "globex"}, **shown)
    assert error_of(reply)[:2] == (403, "organization_mismatch")
    for method, path in (("GET", "/v1/events/recent"), ("POST", "/v1/events/tokens"), ("POST", "/v1/responses")):
        for query, headers in ((f"?token={token}", {}), ("", shown)):
            reply = await demo.http.request(method, path + query, headers=headers, json={})
            assert reply.status_code == 401, (path, reply.text)


async def test_tokens_that_are_not_ours_or_over_are_refused(demo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await bearer(demo)
    token = await token_of(demo, key, expires_in_s=60)
    body, _, signature = token.partition(".")
    for forged in ("x", f"{token}x", body, f"{body}.", f"{body[:-2]}AA.{signature}", f"evt-.{signature}", "evt-é.x"):
        reply = await demo.http.post("/v1/events", params={"token": forged}, json=WEB)
        assert error_of(reply)[:2] == (401, "invalid_api_key"), forged
        assert reply.headers["www-authenticate"] == "Bearer"
    later = datetime.now(UTC) + timedelta(seconds=61)
    with monkeypatch.context() as patch:
        patch.setattr(type(demo.container.completions.event_tokens._clock), "now", lambda _self: later)
        reply = await demo.http.post("/v1/events", params={"token": token}, json=WEB)
    assert error_of(reply)[0] == 401
    assert "expired" in reply.text
    for wrong, param in (
        ({"expires_in_s": 0}, "expires_in_s"),
        ({"expires_in_s": 86_401}, "expires_in_s"),
        ({"user_id": ""}, "user_id"),
        ({"session_id": "x" * 256}, "session_id"),
    ):
        reply = await demo.http.post("/v1/events/tokens", json=wrong, headers=key)
        assert error_of(reply) == (400, "invalid_value", param)
    bound = await bearer(demo, user_id="ada")
    reply = await demo.http.post("/v1/events/tokens", json={"user_id": "eve"}, headers=bound)
    assert error_of(reply) == (403, "user_mismatch", "user_id")
    assert rows(demo) == []


async def test_a_token_of_a_server_without_keys_is_bound_too(demo: Served) -> None:
    token = await token_of(demo, {}, session_id="web-1")
    reply = await demo.http.post("/v1/events", params={"token": token}, json={**WEB, "session_id": "other"})
    assert error_of(reply)[:2] == (403, "session_mismatch")
    assert (await demo.http.post("/v1/events", params={"token": token}, json=WEB)).status_code == 202
    # A token is no key: the server stays as open as it was.
    assert (await demo.http.get("/v1/events/recent")).status_code == 200


async def test_only_named_origins_read_replies(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCR_ALLOWED_ORIGINS", f"https://other.example.org, {ORIGIN}")
    served: Served = await serve()
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    reply = await served.http.request("OPTIONS", "/v1/events", headers={"origin": ORIGIN, **asks})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert "authorization" in reply.headers["access-control-allow-headers"]
    key = await bearer(served, scopes=frozenset(ALL_SCOPES))
    reply = await post(served, WEB, **key, origin=ORIGIN)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (202, ORIGIN)
    assert reply.headers["vary"] == "Origin"
    assert (await post(served, WEB, origin=ORIGIN)).headers["access-control-allow-origin"] == ORIGIN  # also errors
    for path, origin in (
        ("/v1/events", "https://evil.example"),
        ("/v1/events/recent", ORIGIN),
        ("/api/agents", ORIGIN),
    ):
        for method in ("OPTIONS", "GET", "POST"):
            reply = await served.http.request(method, path, headers={**key, "origin": origin, **asks})
            assert "access-control-allow-origin" not in reply.headers, (method, path, origin)


async def test_the_browser_module_is_served_to_everybody(demo: Served) -> None:
    await bearer(demo)
    reply = await demo.http.get("/ui/session-completion.js", headers={"origin": ORIGIN})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
    assert reply.headers["access-control-allow-origin"] == "*"
    text = reply.text
    for needed in ("sendBeacon", "pagehide", "keepalive: true", "/v1/events", "user_terminated", "localStorage"):
        assert needed in text
    assert "sk-" not in text
    assert (await demo.http.get("/ui/other.js")).status_code == 404


async def test_nothing_is_acknowledged_while_the_database_is_away(demo: Served) -> None:
    headers = await bearer(demo)
    assert (await post(demo, WEB, **headers)).status_code == 202
    sent = {**WEB, "event_id": "e-9"}
    blocker = sqlite3.connect(demo.database, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        reply = await post(demo, sent, **headers)
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert error_of(reply)[:2] == (503, "storage_unavailable")
    assert "retry-after" in reply.headers
    assert (await post(demo, sent, **headers)).json()["accepted"] == 1
