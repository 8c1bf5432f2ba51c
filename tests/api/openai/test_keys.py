"""Keys and projects through the official client, with strict validation of every reply."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from app.domain.models.access import ALL_SCOPES, NewKey
from tests.api.serving import Served


def client_of(served: Served, secret: str) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key=secret,
        admin_api_key=secret,
        base_url="http://localhost:8000/v1",
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(served.app)),
        max_retries=0,
        _strict_response_validation=True,
    )


async def secret_of(served: Served, organization_id: str = "acme", **values: Any) -> str:
    new = NewKey(organization_id=organization_id, name="first", **({"scopes": frozenset(ALL_SCOPES)} | values))
    return (await served.container.keys.create(new)).secret


@pytest.fixture
async def client(demo: Served) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(demo, await secret_of(demo)) as client:
        yield client


async def test_keys_of_the_organization(demo: Served, client: AsyncOpenAI) -> None:
    keys = client.admin.organization.admin_api_keys
    before = int(time.time())
    made = await keys.create(name="ci", expires_in_seconds=3_600)
    assert made.value.startswith("sk-")
    assert (made.redacted_value[:7], made.redacted_value[-4:]) == (made.value[:7], made.value[-4:])
    assert made.expires_at is not None
    assert 0 <= made.expires_at - before - 3_600 <= 5
    shown = await keys.retrieve(made.id)
    assert shown.to_dict() == {name: value for name, value in made.to_dict().items() if name != "value"}
    assert (shown.name, shown.owner.role, shown.owner.type) == ("ci", "owner", "service_account")
    assert shown.model_extra == {"scopes": ["admin", "usage"], "agents": None, "models": None}

    listed = [key async for key in keys.list(limit=1)]
    assert [key.name for key in listed] == ["first", "ci"]
    newest = await keys.list(order="desc")
    assert [key.name for key in newest.data] == ["ci", "first"]
    assert newest.has_more is False

    async with client_of(demo, made.value) as ci:
        assert len((await ci.admin.organization.admin_api_keys.list()).data) == 2
        with pytest.raises(openai.PermissionDeniedError):
            await ci.post("/embeddings", body={}, cast_to=object)
        deleted = await keys.delete(made.id)
        assert (deleted.id, deleted.deleted) == (made.id, True)
        with pytest.raises(openai.AuthenticationError) as failed:
            await ci.admin.organization.admin_api_keys.list()
        assert (failed.value.code, failed.value.type) == ("invalid_api_key", "invalid_request_error")
    for call in (keys.retrieve, keys.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)


async def test_projects(client: AsyncOpenAI) -> None:
    projects = client.admin.organization.projects
    made = [await projects.create(name=name) for name in ("a", "b", "c")]
    assert {project.status for project in made} == {"active"}
    assert [project.id async for project in projects.list(limit=2)] == [project.id for project in made]
    renamed = await projects.update(made[0].id, name="web")
    assert (renamed.name, (await projects.retrieve(made[0].id)).name) == ("web", "web")
    archived = await projects.archive(made[0].id)
    assert (archived.status, archived.archived_at is not None) == ("archived", True)
    assert len((await projects.list()).data) == 2
    assert len((await projects.list(include_archived=True)).data) == 3
    with pytest.raises(openai.BadRequestError) as failed:
        await projects.update(made[0].id, name="again")
    assert failed.value.param == "project_id"
    with pytest.raises(openai.BadRequestError) as failed:
        await projects.create(name="x", geography="eu")
    assert (failed.value.param, failed.value.code) == ("geography", "unknown_parameter")
    for call in (projects.retrieve, projects.archive):
        with pytest.raises(openai.NotFoundError):
            await call("proj_nope")


async def test_keys_of_a_project(demo: Served, client: AsyncOpenAI) -> None:
    web = await client.admin.organization.projects.create(name="web")
    other = await client.admin.organization.projects.create(name="other")
    keys = client.admin.organization.projects.api_keys
    path = f"/organization/projects/{web.id}/api_keys"
    made: Any = [
        await client.post(path, body={"name": "front", "user_id": "anna", "agents": ["demo"]}, cast_to=object),
        await client.post(path, body={"name": "back", "scopes": ["read"]}, cast_to=object),
    ]
    assert [(one["scopes"], one["agents"]) for one in made] == [(["read", "write"], ["demo"]), (["read"], None)]
    listed = [key async for key in keys.list(web.id, limit=1)]
    assert [(key.name, key.owner.type) for key in listed] == [("front", "user"), ("back", "service_account")]
    assert listed[0].owner.user is not None
    assert listed[0].owner.user.id == "anna"
    assert (await keys.list(web.id, owner_project_access="inactive")).data == []
    assert (await keys.list(other.id)).data == []
    shown = await keys.retrieve(made[0]["id"], project_id=web.id)
    assert shown.to_dict() == {name: value for name, value in made[0].items() if name != "value"}
    with pytest.raises(openai.NotFoundError):
        await keys.retrieve(made[0]["id"], project_id=other.id)
    with pytest.raises(openai.NotFoundError):
        await keys.delete(made[0]["id"], project_id=other.id)
    with pytest.raises(openai.NotFoundError):
        await client.admin.organization.admin_api_keys.retrieve(made[0]["id"])
    assert (await keys.delete(made[0]["id"], project_id=web.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await keys.retrieve(made[0]["id"], project_id=web.id)

    headers = {"authorization": f"Bearer {made[1]['value']}"}
    assert (await demo.http.get("/api/agents", headers=headers)).status_code == 200
    await client.admin.organization.projects.archive(web.id)
    assert (await demo.http.get("/api/agents", headers=headers)).status_code == 401
    with pytest.raises(openai.BadRequestError) as failed:
        await client.post(path, body={"name": "late"}, cast_to=object)
    assert failed.value.param == "project_id"


async def test_another_organizations_things_do_not_exist(demo: Served, client: AsyncOpenAI) -> None:
    mine = client.admin.organization
    project = await mine.projects.create(name="web")
    made = await mine.admin_api_keys.create(name="x")
    path = f"/organization/projects/{project.id}/api_keys"
    key: Any = await client.post(path, body={"name": "front"}, cast_to=object)
    async with client_of(demo, await secret_of(demo, "globex")) as stranger:
        theirs = stranger.admin.organization
        assert (await theirs.projects.list()).data == []
        assert [one.name for one in (await theirs.admin_api_keys.list()).data] == ["first"]
        for call in (
            theirs.admin_api_keys.retrieve(made.id),
            theirs.admin_api_keys.delete(made.id),
            theirs.projects.retrieve(project.id),
            theirs.projects.update(project.id, name="mine"),
            theirs.projects.archive(project.id),
            theirs.projects.api_keys.retrieve(key["id"], project_id=project.id),
            theirs.projects.api_keys.delete(key["id"], project_id=project.id),
            stranger.post(path, body={"name": "x"}, cast_to=object),
            stranger.get(path, cast_to=object),
        ):
            with pytest.raises(openai.NotFoundError):
                await call
    assert (await mine.projects.retrieve(project.id)).name == "web"


async def test_a_key_of_a_project_administers_that_one_only(demo: Served, client: AsyncOpenAI) -> None:
    web = await client.admin.organization.projects.create(name="web")
    other = await client.admin.organization.projects.create(name="other")
    async with client_of(demo, await secret_of(demo, project_id=web.id)) as confined:
        own = confined.admin.organization
        assert (await own.projects.retrieve(web.id)).id == web.id
        assert len((await own.projects.api_keys.list(web.id)).data) == 1
        with pytest.raises(openai.NotFoundError):
            await own.projects.retrieve(other.id)
        for call in (own.projects.create(name="x"), own.admin_api_keys.create(name="x")):
            with pytest.raises(openai.PermissionDeniedError):
                await call
        with pytest.raises(openai.PermissionDeniedError):
            await own.admin_api_keys.list()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x\u0000"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "x", "scopes": ["root"]}, "scopes.0"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "agents": ["nobody"]}, "agents"),
        ({"name": "x", "agents": []}, "agents"),
        ({"name": "x", "models": ["\u0000"]}, "models"),
        ({"name": "x", "user_id": "a\nb"}, "user_id"),
        ({"name": "x", "expires_in_seconds": 0}, "expires_in_seconds"),
        ({"name": "x", "expires_in_seconds": 10**15}, "expires_in_seconds"),
        ({"name": "x", "colour": "red"}, "colour"),
    ],
)
async def test_wrong_values(client: AsyncOpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as failed:
        await client.post("/organization/admin_api_keys", body=body, cast_to=object)
    assert failed.value.param == param
