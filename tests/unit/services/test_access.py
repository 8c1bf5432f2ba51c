"""Who is let in, over a store in memory and a clock that the test moves."""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.domain.errors import ConfigurationError, InvalidInput, StorageUnavailable
from app.domain.models.access import (
    ApiKey,
    Credentials,
    KeyPage,
    NewKey,
    Principal,
    Project,
    Refusal,
    TokenIdentity,
)
from app.domain.models.conversations import Caller
from app.services.access import KEEP_S, AccessService
from app.services.keys import KeyService
from tests.unit.services.fakes import NOON, Provider


class Clock:
    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s


class Store:
    """An AccessStore as far as these services use it."""

    def __init__(self) -> None:
        self.by_hash: dict[str, ApiKey] = {}
        self.known_projects: dict[str, Project] = {}
        self.used: dict[str, datetime] = {}
        self.asked = 0
        self.away = False
        self.slow: asyncio.Event | None = None

    def _check(self) -> None:
        if self.away:
            raise StorageUnavailable("away")

    async def key_by_hash(self, secret_hash: str) -> ApiKey | None:
        self._check()
        self.asked += 1
        return self.by_hash.get(secret_hash)

    async def has_keys(self) -> bool:
        if self.slow is not None:
            await self.slow.wait()
        self._check()
        return any(key.revoked_at is None for key in self.by_hash.values())

    async def has_active_keys(self, now: datetime) -> bool:
        return any(key.is_active(now) for key in self.by_hash.values())

    async def add_key(self, key: ApiKey, secret_hash: str) -> bool:
        if key.project_id is not None and key.project_id not in self.known_projects:
            return False
        self.by_hash[secret_hash] = key
        return True

    async def revoke_key(self, organization_id: str | None, key_id: str, now: datetime) -> ApiKey | None:
        for hashed, key in self.by_hash.items():
            if key.id == key_id:
                self.by_hash[hashed] = replace(key, revoked_at=now)
                return self.by_hash[hashed]
        return None

    async def record_use(self, last_used: Mapping[str, datetime]) -> None:
        self._check()
        self.used.update(last_used)

    async def project(self, organization_id: str, project_id: str) -> Project | None:
        project = self.known_projects.get(project_id)
        return project if project is not None and project.organization_id == organization_id else None


class Tokens:
    """A TokenVerifier that knows two tokens."""

    closed = False

    async def identity(self, token: str) -> TokenIdentity | Refusal:
        match token:
            case "good":
                return TokenIdentity("acme", "anna", frozenset({"read"}))
            case "late":
                return Refusal("expired")
            case _:
                return Refusal("unknown")

    async def aclose(self) -> None:
        self.closed = True


class Bench:
    def __init__(self, host: str = "127.0.0.1", tokens: Tokens | None = None) -> None:
        self.store, self.clock = Store(), Clock()
        store: Any = self.store
        self.access = AccessService(store, self.clock, host=host, tokens=tokens)
        self.keys = KeyService(store, Provider(), self.clock, on_change=self.access.forget)

    async def key(self, **values: Any) -> tuple[ApiKey, str]:
        issued = await self.keys.create(NewKey(**({"organization_id": "acme", "name": "key"} | values)))
        return issued.key, issued.secret

    async def asks(self, token: str | None, **headers: str) -> Principal | Refusal:
        return await self.access.identify(Credentials(token, **headers))


async def test_a_key_is_its_principal_and_only_its_hash_is_kept() -> None:
    bench = Bench()
    key, secret = await bench.key(
        user_id="anna", scopes=frozenset({"read"}), agents=frozenset({"helper"}), models=frozenset({"small"})
    )
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", secret)
    assert re.fullmatch(r"key_[0-9a-f]{32}", key.id)
    assert key.redacted == f"{secret[:7]}...{secret[-4:]}"
    assert list(bench.store.by_hash) == [hashlib.sha256(secret.encode()).hexdigest()]
    assert secret not in repr(bench.store.by_hash)
    asker = await bench.asks(secret)
    assert asker == Principal(
        Caller("acme", "anna", None, key.id), frozenset({"read"}), frozenset({"helper"}), frozenset({"small"})
    )
    assert (asker.may_use_agent("helper"), asker.may_use_agent("coder")) == (True, False)
    assert (asker.may_use_model("small"), asker.may_use_model("large")) == (True, False)
    assert not asker.keyless


@pytest.mark.parametrize(
    ("token", "reason"),
    [(None, "missing"), ("", "missing"), ("sk-x", "unknown"), ("x", "unknown"), ("sk-\ud83d", "unknown")],
)
async def test_others_are_refused(token: str | None, reason: str) -> None:
    bench = Bench()
    await bench.key()
    assert await bench.asks(token) == Refusal(reason)  # type: ignore[arg-type]


async def test_a_key_ends_in_its_time_although_it_is_remembered() -> None:
    bench = Bench()
    _, secret = await bench.key(lifetime_s=2)
    assert isinstance(await bench.asks(secret), Principal)
    bench.clock.passed_s = 2
    assert await bench.asks(secret) == Refusal("expired")
    assert await bench.asks(None) == Refusal("missing")  # an expired key does not open the server


async def test_a_key_that_another_process_revokes_ends_within_five_seconds() -> None:
    bench = Bench()
    key, secret = await bench.key()
    assert isinstance(await bench.asks(secret), Principal)
    await bench.store.revoke_key(None, key.id, NOON)
    assert isinstance(await bench.asks(secret), Principal)
    assert KEEP_S < 5
    bench.clock.passed_s = KEEP_S
    assert await bench.asks(secret) == Refusal("revoked")


async def test_a_key_that_this_process_revokes_ends_at_once() -> None:
    bench = Bench()
    key, secret = await bench.key()
    assert isinstance(await bench.asks(secret), Principal)
    await bench.keys.revoke("acme", key.id)
    assert await bench.asks(secret) == Refusal("revoked")


async def test_a_known_key_asks_nothing_of_the_database() -> None:
    bench = Bench()
    _, secret = await bench.key()
    for _ in range(10):
        await bench.asks(secret)
    assert bench.store.asked == 1
    bench.store.away = True
    assert isinstance(await bench.asks(secret), Principal)
    bench.clock.passed_s = KEEP_S
    with pytest.raises(StorageUnavailable):
        await bench.asks(secret)


async def test_a_server_of_this_machine_is_open_until_there_is_a_key() -> None:
    bench = Bench()
    assert await bench.asks(None) == Principal(Caller("default"), keyless=True)
    assert await bench.asks("anything") == Principal(Caller("default"), keyless=True)
    assert await bench.asks(None, organization="acme") == Refusal("mismatched_organization")
    _, secret = await bench.key()
    assert await bench.asks(None) == Refusal("missing")
    assert isinstance(await bench.asks(secret), Principal)


async def test_keys_of_another_process_close_the_server_within_five_seconds() -> None:
    bench = Bench()
    assert not await bench.access.keys_required()
    other = Bench()
    await other.key()
    bench.store.by_hash = other.store.by_hash
    bench.clock.passed_s = KEEP_S
    assert await bench.access.keys_required()
    bench.store.by_hash = {}
    bench.clock.passed_s = 100
    assert await bench.access.keys_required()


async def test_while_the_database_is_away_what_was_known_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    assert not await bench.access.keys_required()
    bench.clock.passed_s = KEEP_S
    bench.store.away = True
    assert not await bench.access.keys_required()
    bench.store.away, bench.store.slow = False, asyncio.Event()
    monkeypatch.setattr("app.services.access.STATE_WAIT_S", 0.001)
    assert not await bench.access.keys_required()
    await bench.access.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "LocalHost", "[::1]"])
async def test_binding_to_this_machine(host: str) -> None:
    bench = Bench(host)
    await bench.access.check_bind()
    assert not await bench.access.keys_required()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "10.0.0.1", "example.org", "localhost.example.org", "*"])
async def test_binding_beyond(host: str) -> None:
    bench = Bench(host)
    assert await bench.asks(None) == Refusal("missing")
    with pytest.raises(ConfigurationError, match=r"HOST.*keys create"):
        await bench.access.check_bind()
    await bench.key(lifetime_s=5)
    await bench.access.check_bind()
    bench.clock.passed_s = 5
    with pytest.raises(ConfigurationError):
        await bench.access.check_bind()
    await Bench(host, Tokens()).access.check_bind()


async def test_tokens_of_the_identity_provider() -> None:
    tokens = Tokens()
    bench = Bench(tokens=tokens)
    assert await bench.asks(None) == Refusal("missing")
    assert await bench.asks("good") == Principal(Caller("acme", "anna"), frozenset({"read"}))
    assert await bench.asks("good", organization="globex") == Refusal("mismatched_organization")
    assert await bench.asks("late") == Refusal("expired")
    assert await bench.asks("sk-good") == Refusal("unknown")
    _, secret = await bench.key()
    assert isinstance(await bench.asks(secret), Principal)
    await bench.access.aclose()
    assert tokens.closed


async def test_headers_only_narrow() -> None:
    bench = Bench()
    for project_id, organization_id, archived_at in (
        ("proj_a", "acme", None),
        ("proj_b", "acme", None),
        ("proj_old", "acme", NOON),
        ("proj_g", "globex", None),
    ):
        bench.store.known_projects[project_id] = Project(project_id, organization_id, "p", NOON, archived_at)
    _, whole = await bench.key()
    key, confined = await bench.key(project_id="proj_a")

    narrowed = await bench.asks(whole, organization="acme", project="proj_a")
    assert isinstance(narrowed, Principal)
    assert narrowed.caller.project_id == "proj_a"
    for project in ("proj_old", "proj_g", "proj_nope"):
        assert await bench.asks(whole, project=project) == Refusal("mismatched_project")
    assert await bench.asks(confined, project="proj_a") == await bench.asks(confined)
    assert await bench.asks(confined, project="proj_b") == Refusal("mismatched_project")
    assert (await bench.asks(confined)).caller == Caller("acme", None, "proj_a", key.id)  # type: ignore[union-attr]


async def test_uses_are_written_later_and_survive_a_database_that_is_away() -> None:
    bench = Bench()
    key, secret = await bench.key()
    await bench.access.start()
    await bench.asks(secret)
    assert bench.store.used == {}
    bench.store.away = True
    await bench.access.record_use()
    bench.store.away = False
    bench.clock.passed_s = 1
    await bench.asks(secret)
    await bench.access.aclose()
    assert bench.store.used == {key.id: NOON + timedelta(seconds=1)}


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"organization_id": "no spaces"}, "organization_id"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"user_id": "x" * 256}, "user_id"),
        ({"project_id": "proj_nope"}, "project_id"),
        ({"scopes": frozenset()}, "scopes"),
        ({"scopes": frozenset({"root"})}, "scopes"),
        ({"agents": frozenset()}, "agents"),
        ({"agents": frozenset({"nobody"})}, "agents"),
        ({"models": frozenset({""})}, "models"),
        ({"models": frozenset(str(n) for n in range(1_001))}, "models"),
        ({"lifetime_s": 0}, "expires_in_seconds"),
        ({"lifetime_s": float("nan")}, "expires_in_seconds"),
        ({"lifetime_s": float("inf")}, "expires_in_seconds"),
    ],
)
async def test_keys_that_cannot_be(values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as failed:
        await Bench().key(**values)
    assert failed.value.param == param


@pytest.mark.parametrize("limit", [0, 101])
async def test_pages_are_bounded(limit: int) -> None:
    with pytest.raises(InvalidInput):
        await Bench().keys.list("acme", KeyPage(limit=limit))
    with pytest.raises(InvalidInput):
        await Bench().keys.projects("acme", limit=limit)
