"""Keys and tenants, on SQLite and on PostgreSQL."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.identifiers import new_key_id, new_key_secret, new_project_id
from app.domain.models.access import ApiKey, KeyPage, Project
from app.infrastructure.persistence.access import SqlAccessStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BAD_IDS = ("", "key_nope", "nul\x00", "half\ud83d")


@pytest.fixture
def store(engine: AsyncEngine) -> SqlAccessStore:
    return SqlAccessStore(engine)


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def key(organization_id: str = "acme", **values: Any) -> ApiKey:
    plain = ApiKey(
        id=new_key_id(),
        organization_id=organization_id,
        project_id=None,
        user_id=None,
        name="key",
        redacted="sk-abcd...wxyz",
        scopes=frozenset({"read"}),
        agents=None,
        models=None,
        created_at=NOON,
        expires_at=None,
        revoked_at=None,
        last_used_at=None,
    )
    return replace(plain, **values)


async def added(store: SqlAccessStore, *keys: ApiKey) -> list[str]:
    secrets = [new_key_secret() for _ in keys]
    for one, secret in zip(keys, secrets, strict=True):
        assert await store.add_key(one, hash_of(secret))
    return secrets


async def project(store: SqlAccessStore, organization_id: str = "acme", name: str = "web") -> Project:
    made = Project(new_project_id(), organization_id, name, NOON, None)
    await store.add_project(made)
    return made


async def test_a_key_is_found_by_its_hash_as_it_was_added(store: SqlAccessStore) -> None:
    web = await project(store)
    full = key(
        project_id=web.id,
        user_id="anna",
        name="Ключ 🔑",
        scopes=frozenset({"read", "write", "admin"}),
        agents=frozenset({"demo", "poet"}),
        models=frozenset(),
        expires_at=NOON + HOUR,
        last_used_at=NOON,
    )
    plain = key()
    secrets = await added(store, full, plain)
    for one, secret in zip((full, plain), secrets, strict=True):
        assert await store.key_by_hash(hash_of(secret)) == one
        assert await store.key("acme", one.id) == one
        assert await store.key(None, one.id) == one
    assert await store.key_by_hash(hash_of("sk-other")) is None


async def test_a_hash_belongs_to_one_key(store: SqlAccessStore) -> None:
    (secret,) = await added(store, key())
    with pytest.raises(IntegrityError):
        await store.add_key(key(), hash_of(secret))


async def test_whether_there_are_keys(store: SqlAccessStore) -> None:
    assert (await store.has_keys(), await store.has_active_keys(NOON)) == (False, False)
    expiring = key(expires_at=NOON)
    await added(store, expiring)
    assert (await store.has_keys(), await store.has_active_keys(NOON)) == (True, False)
    assert await store.has_active_keys(NOON - HOUR)
    await store.revoke_key("acme", expiring.id, NOON)
    assert (await store.has_keys(), await store.has_active_keys(NOON - HOUR)) == (False, False)


async def test_another_organizations_key_does_not_exist(store: SqlAccessStore) -> None:
    mine = key()
    (secret,) = await added(store, mine)
    assert await store.key("globex", mine.id) is None
    assert await store.revoke_key("globex", mine.id, NOON) is None
    assert await store.keys("globex", KeyPage()) == ([], False)
    assert await store.key_by_hash(hash_of(secret)) == mine


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_ids_that_cannot_be(store: SqlAccessStore, bad: str) -> None:
    await added(store, key())
    assert await store.key("acme", bad) is None
    assert await store.revoke_key("acme", bad, NOON) is None
    assert await store.project("acme", bad) is None
    assert await store.rename_project("acme", bad, "x") is None
    assert await store.archive_project("acme", bad, NOON) is None
    keys, more = await store.keys("acme", KeyPage(after=bad))
    assert (len(keys) <= 1, more) == (True, False)
    assert (await store.projects("acme", limit=1, after=bad, archived=True))[1] is False


async def test_keys_are_revoked_once_and_for_good(store: SqlAccessStore) -> None:
    one = key()
    (secret,) = await added(store, one)
    revoked = await store.revoke_key("acme", one.id, NOON + HOUR)
    assert revoked == replace(one, revoked_at=NOON + HOUR)
    assert await store.revoke_key(None, one.id, NOON + 2 * HOUR) == revoked
    assert await store.key_by_hash(hash_of(secret)) == revoked
    assert await store.keys("acme", KeyPage()) == ([], False)
    assert await store.keys("acme", KeyPage(revoked=True)) == ([revoked], False)


async def test_pages(store: SqlAccessStore) -> None:
    web = await project(store)
    keys = sorted([key(), key(project_id=web.id), key(), key("globex")], key=lambda one: one.id)
    await added(store, *keys)
    acme = [one for one in keys if one.organization_id == "acme"]
    assert await store.keys("acme", KeyPage(limit=2)) == (acme[:2], True)
    assert await store.keys("acme", KeyPage(limit=2, after=acme[1].id)) == (acme[2:], False)
    assert await store.keys("acme", KeyPage(newest_first=True)) == (acme[::-1], False)
    assert await store.keys("acme", KeyPage(newest_first=True, after=acme[1].id)) == (acme[:1], False)
    assert await store.keys("acme", KeyPage(project_id=web.id)) == (
        [one for one in acme if one.project_id == web.id],
        False,
    )
    assert await store.keys("acme", KeyPage(unassigned=True)) == (
        [one for one in acme if one.project_id is None],
        False,
    )
    assert await store.keys(None, KeyPage()) == (keys, False)


async def test_times_of_use_only_go_forward(store: SqlAccessStore) -> None:
    first, second = key(), key()
    await added(store, first, second)
    await store.record_use({})
    await store.record_use({first.id: NOON + HOUR, second.id: NOON, "key_gone": NOON})
    await store.record_use({first.id: NOON, second.id: NOON + HOUR})
    for one in (first, second):
        found = await store.key("acme", one.id)
        assert found is not None
        assert found.last_used_at == NOON + HOUR


async def test_projects(store: SqlAccessStore) -> None:
    made = sorted([await project(store, name=name) for name in ("a", "b", "c")], key=lambda one: one.id)
    await project(store, "globex")
    assert await store.projects("acme", limit=2, after=None, archived=False) == (made[:2], True)
    assert await store.projects("acme", limit=2, after=made[1].id, archived=False) == (made[2:], False)
    assert await store.project("acme", made[0].id) == made[0]
    assert await store.project("globex", made[0].id) is None
    assert await store.rename_project("globex", made[0].id, "x") is None
    renamed = await store.rename_project("acme", made[0].id, "Über")
    assert renamed == replace(made[0], name="Über") == await store.project("acme", made[0].id)


async def test_an_archived_project_takes_its_keys_along(store: SqlAccessStore) -> None:
    web, other = await project(store), await project(store)
    gone, revoked, kept, apart = (
        key(project_id=web.id),
        key(project_id=web.id, revoked_at=NOON - HOUR),
        key(project_id=other.id),
        key(),
    )
    await added(store, gone, revoked, kept, apart)
    assert await store.archive_project("globex", web.id, NOON) is None
    archived = await store.archive_project("acme", web.id, NOON)
    assert archived == replace(web, archived_at=NOON)
    assert await store.archive_project("acme", web.id, NOON + HOUR) == archived
    assert await store.rename_project("acme", web.id, "new") == archived
    assert await store.projects("acme", limit=9, after=None, archived=False) == ([other], False)
    assert len((await store.projects("acme", limit=9, after=None, archived=True))[0]) == 2
    found = [await store.key("acme", one.id) for one in (gone, revoked, kept, apart)]
    assert [one and one.revoked_at for one in found] == [NOON, NOON - HOUR, None, None]
    assert not await store.add_key(key(project_id=web.id), hash_of("sk-late"))


async def test_a_project_must_be_the_organizations_own(store: SqlAccessStore) -> None:
    theirs = await project(store, "globex")
    assert not await store.add_key(key(project_id=theirs.id), hash_of("sk-a"))
    assert not await store.add_key(key(project_id="proj_nope"), hash_of("sk-b"))
    assert not await store.has_keys()


async def test_the_first_keys_of_an_organization_come_at_the_same_time(store: SqlAccessStore) -> None:
    keys = [key("fresh") for _ in range(8)]
    await asyncio.gather(*(store.add_key(one, hash_of(one.id)) for one in keys))
    assert len((await store.keys("fresh", KeyPage()))[0]) == 8


async def test_a_key_that_is_made_while_its_project_is_archived_is_refused_or_revoked(store: SqlAccessStore) -> None:
    web = await project(store)
    keys = [key(project_id=web.id) for _ in range(6)]
    made = asyncio.gather(*(store.add_key(one, hash_of(one.id)) for one in keys))
    await store.archive_project("acme", web.id, NOON)
    await made
    assert not await store.has_active_keys(NOON)
