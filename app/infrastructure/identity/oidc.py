"""Tokens of an OpenID Connect provider: signature, issuer, audience and time are checked; claims name the caller."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from app.domain.errors import ConfigurationError
from app.domain.identifiers import ORGANIZATION_PATTERN
from app.domain.loopback import is_loopback
from app.domain.models.access import ALL_SCOPES, Refusal, TokenIdentity
from app.domain.ports import Clock
from app.infrastructure.identity.key_sets import JwksKeys

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
"""Signatures with a private key only: nothing that the public key could sign."""

LEEWAY_S: Final = 30.0
MAX_TOKEN_CHARS: Final = 16_384
_USER: Final = re.compile("[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_UNKNOWN: Final = Refusal("unknown")


@dataclass(frozen=True, slots=True)
class OidcClaims:
    """What a token must say, and where it says whom it speaks for."""

    issuer: str
    audience: str
    organization: str
    """The claim that holds the organization; a token without it is refused."""
    user: str
    """The claim that holds the user; a token without it is refused, or it would speak for all of them."""
    scopes: str
    """The claim that holds the scopes, as a list or separated by spaces; others than ours mean nothing here."""


class OidcTokens:
    """TokenVerifier for one OpenID Connect provider."""

    def __init__(self, claims: OidcClaims, keys: JwksKeys) -> None:
        """Take over the keys: closing this closes them."""
        self._claims: Final = claims
        self._keys: Final = keys

    async def identity(self, token: str) -> TokenIdentity | Refusal:
        """Return whom a token speaks for; see the port."""
        try:
            key = await self._key(token)
        except ConnectionError:
            return Refusal("issuer_away")
        if key is None:
            return _UNKNOWN
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._claims.audience,
                issuer=self._claims.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            return Refusal("expired")
        except jwt.PyJWTError:
            return _UNKNOWN
        return self._identity(payload)

    async def aclose(self) -> None:
        """Close the connection to the provider."""
        await self._keys.aclose()

    async def _key(self, token: str) -> jwt.PyJWK | None:
        """Return the provider's key that a token claims to be signed with; None: it is no token of the provider.

        Raises:
            ConnectionError: the provider's keys cannot be read.
        """
        try:
            header = jwt.get_unverified_header(token) if len(token) <= MAX_TOKEN_CHARS else {}
        except jwt.PyJWTError:
            return None
        if header.get("alg") not in ALGORITHMS:
            return None
        key = await self._keys.find(header.get("kid"))
        return key if key is not None and key.algorithm_name in ALGORITHMS else None

    def _identity(self, payload: Mapping[str, Any]) -> TokenIdentity | Refusal:
        organization, user = payload.get(self._claims.organization), payload.get(self._claims.user)
        if not isinstance(organization, str) or ORGANIZATION_PATTERN.fullmatch(organization) is None:
            return _UNKNOWN
        if not isinstance(user, str) or _USER.fullmatch(user) is None:
            return _UNKNOWN
        scopes = payload.get(self._claims.scopes)
        named = scopes.split() if isinstance(scopes, str) else scopes if isinstance(scopes, list) else []
        return TokenIdentity(organization, user, ALL_SCOPES & {scope for scope in named if isinstance(scope, str)})


def build_tokens(claims: OidcClaims, jwks_url: str, clock: Clock) -> OidcTokens:
    """Return what judges the provider's tokens; its keys are fetched when the first token comes.

    Raises:
        ConfigurationError: the address could be answered by others than the provider.
    """
    place = urlsplit(jwks_url)
    if place.scheme != "https" and not (place.scheme == "http" and is_loopback(place.hostname or "")):
        raise ConfigurationError("APP_OIDC_JWKS_URL must begin with https://: whoever can change the keys gets in.")
    return OidcTokens(claims, JwksKeys(jwks_url, clock))
