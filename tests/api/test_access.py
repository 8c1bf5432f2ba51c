"""Who is let in, route by route, and what a key keeps apart."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.api.access_gate import OPEN_FOLDERS, OPEN_PATHS
from app.api.application import ROUTERS, create_app
from app.api.openai.access import Access
from app.domain.errors import ConfigurationError, InvalidInput
from app.domain.models.access import ALL_SCOPES, NewKey
from tests.api.serving import Served, says, scripted, serving, settings_of

EVERYTHING = frozenset(ALL_SCOPES)
PATHS = sorted(
    {
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        for method in route.methods
        if route.path not in OPEN_PATHS and not route.path.startswith(OPEN_FOLDERS)
    }
)


async def key_of(served: Served, organization_id: str = "acme", **values: Any) -> str:
    """Make a key; gives its secret."""
    new = NewKey(organization_id=organization_id, name="key", **({"scopes": EVERYTHING} | values))
    return (await served.container.keys.create(new)).secret


def bearing(secret: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}", **{name.replace("_", "-"): value for name, value in more.items()}}


def url_of(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "x", path)


def code_of(reply: httpx2.Response) -> str:
    error = reply.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error["code"]


@pytest.fixture
async def keyed(demo: Served) -> tuple[Served, str]:
    """The demo server once there is a key."""
    return demo, await key_of(demo)


def test_all_routes_are_walked() -> None:
    assert len(PATHS) > 25
    assert {("POST", "/api/session"), ("GET", "/v1/organization/projects"), ("GET", "/")} <= set(PATHS)
    assert {"/health", "/healthz", "/readyz", "/openapi.json", "/docs"} == OPEN_PATHS


async def test_every_route_wants_a_key(keyed: tuple[Served, str]) -> None:
    served, secret = keyed
    for method, path in PATHS:
        for headers in ({}, {"authorization": f"Basic {secret}"}, bearing(f"{secret}x")):
            reply = await served.http.request(method, url_of(path), headers=headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
            if method != "HEAD":
                assert code_of(reply) == "invalid_api_key"
    unknown = await served.http.get("/v1/nowhere")
    assert unknown.status_code == 401
    assert (await served.http.get("/v1/nowhere", headers=bearing(secret))).status_code == 404


async def test_every_route_wants_a_scope(keyed: tuple[Served, str]) -> None:
    served, _ = keyed
    for method, path in PATHS:
        if path == "/":
            continue  # what answers here; nothing of a tenant
        needed = "read" if method in {"GET", "HEAD"} else "write"
        if path.startswith("/v1/organization/"):
            needed = "usage" if re.search("/(usage|costs)", path) else "admin"
        if path.startswith("/v1/webhook_") or path == "/metrics":
            needed = "admin"
        if "/events" in path and not path.startswith("/api/"):
            needed = "events:read" if method in {"GET", "HEAD"} else "events:write"
        secret = await key_of(served, scopes=EVERYTHING - {needed})
        reply = await served.http.request(method, url_of(path), headers=bearing(secret), json={})
        assert (reply.status_code, code_of(reply)) == (403, "insufficient_permissions"), (method, path)
        assert f"Missing scope: {needed}." in reply.json()["error"]["message"]
        enough = await key_of(served, scopes=frozenset({needed}))
        reply = await served.http.request(method, url_of(path), headers=bearing(enough), json={})
        assert reply.status_code not in {401, 403} or code_of(reply) == "session_required", (method, path, reply.text)


async def test_what_is_open_stays_open(keyed: tuple[Served, str]) -> None:
    served, _ = keyed
    for path in OPEN_PATHS:
        reply = await served.http.get(path, headers={"host": "agents.example.org"})
        assert reply.status_code == 200


async def test_a_body_is_not_read_for_a_stranger(keyed: tuple[Served, str]) -> None:
    served, _ = keyed
    async with served.request("POST", "/api/chat", chunks=[b"{", b"}"]) as sent:
        assert await sent.head() == 401
        assert sent.chunks_read == 0


async def test_without_keys_everyone_on_this_machine_is_the_default_organization(demo: Served) -> None:
    reply = await demo.http.post("/v1/organization/projects", json={"name": "web"}, headers=bearing("whatever"))
    assert reply.status_code == 200
    (row,) = demo.rows("SELECT organization_id FROM projects")
    assert row["organization_id"] == "default"
    assert (await demo.http.get("/healthz", headers={"host": "evil.example"})).status_code == 421
    assert (await demo.http.get("/v1/organization/projects", headers={"host": "evil.example"})).status_code == 421


async def test_with_keys_the_server_may_have_any_name_and_pages_may_be_anywhere(keyed: tuple[Served, str]) -> None:
    served, secret = keyed
    headers = bearing(secret, host="agents.example.org", origin="https://app.example.org")
    assert (await served.http.post("/api/session", json={}, headers=headers)).status_code == 201
    assert (await served.http.post("/api/session", json={}, headers={"host": "agents.example.org"})).status_code == 401


async def test_the_first_key_closes_the_server(demo: Served) -> None:
    assert (await demo.http.get("/api/agents")).status_code == 200
    secret = await key_of(demo)
    assert (await demo.http.get("/api/agents")).status_code == 401
    assert (await demo.http.get("/api/agents", headers=bearing(secret))).status_code == 200
    # It stays closed while the process lives: the last key's end must not open it.
    (row,) = demo.rows("SELECT id FROM api_keys")
    await demo.container.keys.revoke("acme", row["id"])
    assert (await demo.http.get("/api/agents")).status_code == 401
    assert (await demo.http.get("/api/agents", headers=bearing(secret))).status_code == 401


async def test_revoked_and_expired_keys(keyed: tuple[Served, str]) -> None:
    served, admin = keyed
    made = await served.http.post("/v1/organization/admin_api_keys", json={"name": "x"}, headers=bearing(admin))
    key_id, secret = made.json()["id"], made.json()["value"]
    assert (await served.http.get("/v1/organization/projects", headers=bearing(secret))).status_code == 200
    await served.http.delete(f"/v1/organization/admin_api_keys/{key_id}", headers=bearing(admin))
    reply = await served.http.get("/v1/organization/projects", headers=bearing(secret))
    assert (reply.status_code, code_of(reply)) == (401, "invalid_api_key")
    assert "revoked" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("name", "status"), [("acme", 200), ("globex", 401)])
async def test_the_organization_header_only_narrows(keyed: tuple[Served, str], name: str, status: int) -> None:
    served, secret = keyed
    reply = await served.http.get("/api/agents", headers=bearing(secret, openai_organization=name))
    assert reply.status_code == status
    if status == 401:
        assert code_of(reply) == "mismatched_organization"


async def test_the_project_header_only_narrows(keyed: tuple[Served, str]) -> None:
    served, secret = keyed
    web = await served.container.keys.create_project("acme", "web")
    other = await served.container.keys.create_project("acme", "other")
    theirs = await served.container.keys.create_project("globex", "theirs")
    confined = await key_of(served, project_id=web.id)

    async def status(key: str, project_id: str) -> int:
        path = f"/v1/organization/projects/{web.id}"
        return (await served.http.get(path, headers=bearing(key, openai_project=project_id))).status_code

    assert await status(secret, web.id) == 200
    assert await status(secret, other.id) == 404  # narrowed to another project
    assert await status(secret, theirs.id) == 401
    assert await status(secret, "proj_nope") == 401
    assert await status(confined, web.id) == 200
    assert await status(confined, other.id) == 401
    await served.container.keys.archive_project("acme", other.id)
    assert await status(secret, other.id) == 401
    whole = await served.http.get("/v1/organization/projects", headers=bearing(secret, openai_project=web.id))
    assert whole.status_code == 403


async def test_sessions_belong_to_the_keys_organization(keyed: tuple[Served, str]) -> None:
    served, acme = keyed
    globex = await key_of(served, "globex")
    anna = await key_of(served, user_id="anna")
    bert = await key_of(served, user_id="bert")

    async def opened(secret: str, **body: Any) -> httpx2.Response:
        return await served.http.post("/api/session", json=body, headers=bearing(secret))

    for secret, body in ((globex, {"tenantId": "acme"}), (acme, {"tenantId": "default"}), (anna, {"userId": "bert"})):
        refused = await opened(secret, **body)
        assert (refused.status_code, code_of(refused)) == (403, "insufficient_permissions")
    session = (await opened(anna)).json()
    assert (session["tenantId"], session["userId"]) == ("acme", "anna")
    made_up = (await opened(acme, tenantId="acme")).json()
    assert (made_up["tenantId"], made_up["userId"][:10]) == ("acme", "anonymous-")

    body = {"sessionId": session["sessionId"], "message": "hello"}
    for secret, status in ((globex, 404), (bert, 404), (anna, 200), (acme, 200)):
        asked = {"headers": bearing(secret, x_session_id=session["sessionId"])}
        for method, path in (("GET", "/api/conversations"), ("GET", "/api/runs"), ("GET", "/api/approvals")):
            assert (await served.http.request(method, path, **asked)).status_code == status
        assert (await served.http.post("/api/chat", json=body, **asked)).status_code == status
        if status == 404:
            for path in ("/api/chat/stream", "/api/runs"):
                assert (await served.http.post(path, json=body, **asked)).status_code == 404
    rows = served.rows("SELECT DISTINCT organization_id, user_id FROM agent_runs")
    assert rows == [{"organization_id": "acme", "user_id": "anna"}]


async def test_runs_are_accounted_to_the_key(keyed: tuple[Served, str]) -> None:
    served, _ = keyed
    web = await served.container.keys.create_project("acme", "web")
    secret = await key_of(served, project_id=web.id, user_id="anna")
    session = (await served.http.post("/api/session", json={}, headers=bearing(secret))).json()
    body = {"sessionId": session["sessionId"], "message": "hello"}
    assert (await served.http.post("/api/chat", json=body, headers=bearing(secret))).status_code == 200
    (key,) = served.rows("SELECT id FROM api_keys WHERE project_id = ?", web.id)
    (used,) = served.rows("SELECT DISTINCT project_id, api_key_id FROM agent_run_usage")
    assert used == {"project_id": web.id, "api_key_id": key["id"]}


async def test_a_key_may_be_confined_to_agents_and_models(serve: Callable[..., Any]) -> None:
    served = await serve(scripted(says("one"), name="one"), scripted(says("two"), name="two"))
    free = await key_of(served)
    confined = await key_of(served, agents=frozenset({"two"}), models=frozenset({"small"}))
    listed = (await served.http.get("/api/agents", headers=bearing(confined))).json()["data"]
    assert [agent["key"] for agent in listed] == ["two"]

    async def open_session(secret: str, agent: str) -> httpx2.Response:
        return await served.http.post("/api/session", json={"agent": agent}, headers=bearing(secret))

    refused = await open_session(confined, "one")
    assert (refused.status_code, code_of(refused)) == (404, "model_not_found")
    theirs = (await open_session(free, "one")).json()
    mine = (await open_session(confined, "two")).json()

    async def chat(session: dict[str, Any], **body: Any) -> httpx2.Response:
        sent = {"sessionId": session["sessionId"], "message": "hi", **body}
        return await served.http.post("/api/chat", json=sent, headers=bearing(confined))

    for reply in (
        await chat(theirs),  # its conversation's agent is another
        await chat(mine, agent="one"),
        await chat(mine, options={"model": "large"}),
    ):
        assert (reply.status_code, code_of(reply)) == (404, "model_not_found")
    assert (await chat(mine)).json()["output"] == "two"
    with pytest.raises(InvalidInput, match="nobody"):
        await key_of(served, agents=frozenset({"nobody"}))


async def test_requests_cost_no_look_up_and_uses_are_written_later(
    keyed: tuple[Served, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, secret = keyed
    assert (await served.http.get("/api/agents", headers=bearing(secret))).status_code == 200
    store = served.container.access._store

    async def away(_hash: str) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(store, "key_by_hash", away)
    for _ in range(5):
        assert (await served.http.get("/api/tools", headers=bearing(secret))).status_code == 200
    assert served.rows("SELECT last_used_at FROM api_keys") == [{"last_used_at": None}]
    await served.container.access.record_use()
    (row,) = served.rows("SELECT last_used_at FROM api_keys")
    used_at = datetime.fromisoformat(row["last_used_at"]).replace(tzinfo=UTC)
    assert datetime.now(UTC) - used_at < timedelta(seconds=60)


@pytest.mark.parametrize("host", ["0.0.0.0", "example.org"])
async def test_others_are_not_served_before_there_is_a_key(database_file: str, host: str) -> None:
    app = create_app(settings=settings_of(database_file, server={"host": host}))
    with pytest.raises(ConfigurationError, match=r"HOST.*durable-agents keys create"):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")


async def test_others_are_served_once_there_is_a_key(database_file: str) -> None:
    async with serving(settings_of(database_file)) as served:
        secret = await key_of(served)
        expired = await served.container.keys.create(NewKey(organization_id="acme", name="x", lifetime_s=1))
    async with serving(settings_of(database_file, server={"host": "0.0.0.0"})) as served:
        assert (await served.http.get("/api/agents")).status_code == 401
        assert (await served.http.get("/api/agents", headers=bearing(secret))).status_code == 200
        (revoked,) = [row["id"] for row in served.rows("SELECT id FROM api_keys") if row["id"] != expired.key.id]
        await served.container.keys.revoke("acme", revoked)
        past = datetime.now(UTC) - timedelta(days=1)
        connection = served.container.access._store._engine
        async with connection.begin() as writing:
            await writing.exec_driver_sql("UPDATE api_keys SET expires_at = ?", (past.isoformat(" ")[:26],))
    app = create_app(settings=settings_of(database_file, server={"host": "0.0.0.0"}))
    with pytest.raises(ConfigurationError, match="HOST"):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")


async def test_an_identity_provider_closes_the_server_too(database_file: str) -> None:
    oidc = {"issuer": "https://id.example", "audience": "agents", "jwks_url": "https://id.example/keys"}
    settings = settings_of(database_file, server={"host": "0.0.0.0"})
    settings = settings.model_copy(update={"oidc": settings.oidc.model_copy(update=oidc)})
    async with serving(settings) as served:
        assert (await served.http.get("/api/agents")).status_code == 401
        assert (await served.http.get("/api/agents", headers=bearing("no.token.at-all"))).status_code == 401


@pytest.mark.parametrize(
    ("oidc", "named"),
    [
        ({"issuer": "https://id.example"}, "APP_OIDC_AUDIENCE"),
        ({"audience": "agents", "jwks_url": "https://id.example/keys"}, "APP_OIDC_ISSUER"),
        ({"issuer": "i", "audience": "a", "jwks_url": "http://id.example/keys"}, "APP_OIDC_JWKS_URL"),
    ],
)
async def test_half_an_identity_provider_is_refused(database_file: str, oidc: dict[str, str], named: str) -> None:
    settings = settings_of(database_file)
    settings = settings.model_copy(update={"oidc": settings.oidc.model_copy(update=oidc)})
    with pytest.raises(ConfigurationError, match=named):
        async with serving(settings):
            pytest.fail("it started")


async def test_a_route_that_is_not_behind_the_gate_serves_nobody() -> None:
    app = FastAPI()

    @app.get("/v1/probe")
    async def probe(access: Access) -> dict[str, str]:
        return {"organization": access.caller.organization_id}

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as http:
        with pytest.raises(RuntimeError, match="access gate"):
            await http.get("/v1/probe")


async def test_a_mounted_app_is_guarded_by_its_own_paths(demo: Served) -> None:
    outer = FastAPI()
    outer.mount("/agents", demo.app)
    await key_of(demo)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(outer), base_url="http://localhost") as http:
        assert (await http.get("/agents/healthz")).status_code == 200
        assert (await http.get("/agents/api/agents")).status_code == 401
        assert (await http.get("/agents/api/agents/healthz")).status_code == 401
        assert (await http.get("/agents/agents/healthz")).status_code == 401
