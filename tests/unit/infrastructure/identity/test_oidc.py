"""Tokens of an identity provider, signed here with keys made here; the network is a function."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from app.domain.errors import ConfigurationError
from app.domain.models.access import Refusal, TokenIdentity
from app.infrastructure.clock import SystemClock
from app.infrastructure.identity.key_sets import ASK_EVERY_S, KEEP_S, MAX_KEY_SET_BYTES, STALE_S, JwksKeys
from app.infrastructure.identity.oidc import OidcClaims, OidcTokens, build_tokens

URL = "https://id.example/keys"
CLAIMS = OidcClaims("https://id.example", "agents", "org_id", "sub", "scope")
UNKNOWN = Refusal("unknown")
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
EC384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
ALGORITHMS = jwt.algorithms.get_default_algorithms()


def public(key: Any, algorithm: str, kid: str | None, **more: Any) -> dict[str, Any]:
    described = json.loads(ALGORITHMS[algorithm].to_jwk(key.public_key()))  # type: ignore[attr-defined]
    return {**described, "alg": algorithm, **({} if kid is None else {"kid": kid}), **more}


SIGNERS = {
    "r": (RSA, "RS256"),
    "e": (EC, "ES256"),
    "d": (ED, "EdDSA"),
    "e384": (EC384, "ES384"),
    "short": (SHORT, "RS256"),
}
KEY_SET = {"keys": [public(key, algorithm, kid) for kid, (key, algorithm) in SIGNERS.items()]}


def token(kid: str | None = "r", *, key: Any = None, algorithm: str | None = None, **claims: Any) -> str:
    signer, usual = SIGNERS.get(kid or "r", (RSA, "RS256"))
    payload = {
        "iss": CLAIMS.issuer,
        "aud": CLAIMS.audience,
        "exp": int(time.time()) + 600,
        "org_id": "acme",
        "sub": "anna",
        "scope": "openid read write",
        **claims,
    }
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key or signer, algorithm or usual, headers={} if kid is None else {"kid": kid})


class Clock(SystemClock):
    passed_s = 0.0

    def monotonic(self) -> float:
        return self.passed_s


class Issuer:
    """The provider's address."""

    def __init__(self, key_set: Any = KEY_SET) -> None:
        self.key_set = key_set
        self.asked = 0
        self.status = 200
        self.clock = Clock()
        keys = JwksKeys(URL, self.clock, transport=httpx2.MockTransport(self._answer))
        self.tokens = OidcTokens(CLAIMS, keys)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        assert str(request.url) == URL
        self.asked += 1
        if self.status == 0:
            raise httpx2.ConnectError("away")
        body = self.key_set if isinstance(self.key_set, bytes) else json.dumps(self.key_set).encode()
        return httpx2.Response(self.status, content=body)


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


@pytest.mark.parametrize("kid", ["r", "e", "d"])
async def test_a_good_token_names_its_caller(kid: str) -> None:
    issuer = Issuer()
    assert await issuer.tokens.identity(token(kid)) == TokenIdentity("acme", "anna", frozenset({"read", "write"}))
    assert await issuer.tokens.identity(token(kid, scope=["admin", 5, "x"])) == TokenIdentity(
        "acme", "anna", frozenset({"admin"})
    )
    assert await issuer.tokens.identity(token(kid, scope=None)) == TokenIdentity("acme", "anna", frozenset())
    assert issuer.asked == 1
    await issuer.tokens.aclose()


@pytest.mark.parametrize(
    "bad",
    [
        lambda: "",
        lambda: "a.b",
        lambda: "a.b.c",
        lambda: "sk-x",
        lambda: "ключ.ключ.ключ",
        lambda: token() + "x",
        lambda: token() * 100,
        lambda: token(iss="https://evil.example"),
        lambda: token(aud="others"),
        lambda: token(iss=None),
        lambda: token(aud=None),
        lambda: token(exp=None),
        lambda: token(exp="soon"),
        lambda: token(nbf=int(time.time()) + 600),
        lambda: token(org_id=None),
        lambda: token(org_id=""),
        lambda: token(org_id="no spaces"),
        lambda: token(org_id=5),
        lambda: token(sub=None),
        lambda: token(sub=""),
        lambda: token(sub="a\nb"),
        lambda: token(sub="x" * 256),
        lambda: token("e", key=EC384, algorithm="ES384"),
        lambda: token("r", key=EC, algorithm="ES256"),
        lambda: token("e384"),
        lambda: token("short"),
        lambda: token("nobody"),
        lambda: token(None),
        lambda: jwt.encode({"sub": "anna"}, "", "none"),
        lambda: jwt.encode({"iss": CLAIMS.issuer, "aud": CLAIMS.audience}, "k" * 32, "HS256", headers={"kid": "r"}),
    ],
)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_other_tokens_are_refused(bad: Callable[[], str]) -> None:
    issuer = Issuer()
    assert await issuer.tokens.identity(bad()) == UNKNOWN
    await issuer.tokens.aclose()


async def test_a_token_ends_with_some_leeway() -> None:
    issuer = Issuer()
    assert await issuer.tokens.identity(token(exp=int(time.time()) - 5)) != UNKNOWN
    assert await issuer.tokens.identity(token(exp=int(time.time()) - 60)) == Refusal("expired")
    await issuer.tokens.aclose()


async def test_the_only_key_need_not_be_named() -> None:
    issuer = Issuer({"keys": [public(RSA, "RS256", None), public(EC, "ES256", "enc", use="enc")]})
    assert isinstance(await issuer.tokens.identity(token(None)), TokenIdentity)
    await issuer.tokens.aclose()


async def test_claims_may_have_other_names() -> None:
    issuer = Issuer()
    claims = OidcClaims(CLAIMS.issuer, CLAIMS.audience, "https://x/org", "email", "permissions")
    tokens = OidcTokens(claims, JwksKeys(URL, Clock(), transport=httpx2.MockTransport(issuer._answer)))
    named = token(**{"https://x/org": "globex", "email": "a@b.example", "permissions": ["usage"]})
    assert await tokens.identity(named) == TokenIdentity("globex", "a@b.example", frozenset({"usage"}))
    assert await tokens.identity(token()) == UNKNOWN
    await tokens.aclose()
    await issuer.tokens.aclose()


async def test_new_keys_are_read_when_a_token_names_one_but_not_at_every_guess() -> None:
    issuer = Issuer({"keys": [public(EC, "ES256", "e")]})
    assert await issuer.tokens.identity(token("r")) == UNKNOWN
    issuer.key_set = KEY_SET
    assert await issuer.tokens.identity(token("r")) == UNKNOWN
    assert issuer.asked == 1
    issuer.clock.passed_s = ASK_EVERY_S
    assert isinstance(await issuer.tokens.identity(token("r")), TokenIdentity)
    issuer.clock.passed_s = ASK_EVERY_S * 2
    for number in range(20):
        assert await issuer.tokens.identity(token(f"guess{number}")) == UNKNOWN
    assert issuer.asked == 3
    await issuer.tokens.aclose()


async def test_a_key_that_was_taken_back_ends() -> None:
    issuer = Issuer()
    assert isinstance(await issuer.tokens.identity(token("e")), TokenIdentity)
    issuer.key_set = {"keys": [public(RSA, "RS256", "r")]}
    issuer.clock.passed_s = KEEP_S + 1
    assert await issuer.tokens.identity(token("e")) == UNKNOWN
    await issuer.tokens.aclose()


async def test_while_the_provider_is_away_its_keys_are_used_for_an_hour(quiet_logs: list[Any]) -> None:
    issuer = Issuer()
    assert isinstance(await issuer.tokens.identity(token()), TokenIdentity)
    for status in (0, 500):
        issuer.status = status
        issuer.clock.passed_s += KEEP_S + 1
        assert isinstance(await issuer.tokens.identity(token()), TokenIdentity)
    issuer.clock.passed_s = STALE_S + 1
    assert await issuer.tokens.identity(token()) == Refusal("issuer_away")
    assert {line["event"] for line in quiet_logs} == {"oidc_keys_unreadable"}
    issuer.status = 200
    issuer.clock.passed_s += ASK_EVERY_S
    assert isinstance(await issuer.tokens.identity(token()), TokenIdentity)
    await issuer.tokens.aclose()


@pytest.mark.parametrize(
    "key_set",
    [b"", b"{}", b"[]", b"\xff", b'{"keys": 5}', b'{"keys": []}', b'{"keys": [5]}', b" " * (MAX_KEY_SET_BYTES + 1)],
)
async def test_key_sets_that_cannot_be_read(key_set: bytes) -> None:
    issuer = Issuer(key_set)
    assert await issuer.tokens.identity(token()) == Refusal("issuer_away")
    await issuer.tokens.aclose()


async def test_many_tokens_share_one_request() -> None:
    issuer = Issuer()
    found = await asyncio.gather(*(issuer.tokens.identity(token()) for _ in range(10)))
    assert all(isinstance(one, TokenIdentity) for one in found)
    assert issuer.asked == 1
    await issuer.tokens.aclose()


@pytest.mark.parametrize("url", ["http://id.example/keys", "file:///keys", "id.example", ""])
def test_keys_come_over_https(url: str) -> None:
    with pytest.raises(ConfigurationError, match="APP_OIDC_JWKS_URL"):
        build_tokens(CLAIMS, url, SystemClock())


@pytest.mark.parametrize("url", [URL, "http://localhost:9/keys", "http://127.0.0.1/keys"])
async def test_keys_may_come_from_this_machine(url: str) -> None:
    await build_tokens(CLAIMS, url, SystemClock()).aclose()
