"""Identifiers: time-ordered, prefixed, minted here; capture, which counts microseconds, mints its own the same way."""

import os
import re
import secrets
import time
from typing import Final

from app.domain.errors import InvalidInput

ORGANIZATION_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What an organization id may look like; it holds no `:` so that it can prefix a session id unambiguously."""

MAX_SESSION_ID_CHARS: Final = 255

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: no text column takes them."""


def uuid7_hex() -> str:
    """Return a UUID version 7 (RFC 9562, section 5.7) as 32 hex digits: they sort by the millisecond of creation."""
    millis = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (millis & 0xFFFFFFFFFFFF) << 80 | random_bits
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def new_conversation_id() -> str:
    """Mint the id of a conversation: `conv_` and 32 hex digits."""
    return f"conv_{uuid7_hex()}"


def new_run_id() -> str:
    """Mint the id of a run: `run_` and 32 hex digits."""
    return f"run_{uuid7_hex()}"


def new_call_id() -> str:
    """Mint the id of a call that belongs to no run: `req_` and 32 hex digits."""
    return f"req_{uuid7_hex()}"


def new_event_id() -> str:
    """Mint the id of a completion event: a plain UUID version 7, 36 characters."""
    digits = uuid7_hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_client_session_id() -> str:
    """Mint the id of a client session: `sess_` and 48 hex digits, 160 of its bits random: it is a capability."""
    return f"sess_{uuid7_hex()[:12]}{os.urandom(18).hex()}"


def new_key_id() -> str:
    """Mint the id of an API key: `key_` and 32 hex digits; it is no secret."""
    return f"key_{uuid7_hex()}"


def new_project_id() -> str:
    """Mint the id of a project: `proj_` and 32 hex digits."""
    return f"proj_{uuid7_hex()}"


def new_share_id() -> str:
    """Mint the id of a link to a conversation: `share_` and 32 hex digits; it is no secret."""
    return f"share_{uuid7_hex()}"


def new_share_token() -> str:
    """Mint what opens a link to a conversation: `shr_` and 43 characters, 256 random bits."""
    return f"shr_{secrets.token_urlsafe(32)}"


def new_key_secret() -> str:
    """Mint the secret of an API key: `sk-` and 43 characters, 256 random bits."""
    return f"sk-{secrets.token_urlsafe(32)}"


def check_organization(organization_id: str) -> str:
    """Return the id unchanged.

    Raises:
        InvalidInput: it is empty, longer than 64 characters, or holds anything but letters, digits, `.`, `_`, `-`.
    """
    if ORGANIZATION_PATTERN.fullmatch(organization_id) is None:
        raise InvalidInput("An organization id is 1 to 64 letters, digits, '.', '_' or '-'.", param="organization_id")
    return organization_id


def session_key(organization_id: str, reference: str) -> str:
    """Return the id under which the SDK's tables keep a session: `<organization>:<reference>`.

    The reference is a conversation id of ours, a `conv_*` of the provider, or any free-form id of the caller;
    the prefix keeps one organization's free-form ids away from another's rows.

    Raises:
        InvalidInput: the organization is malformed, or the reference is empty or too long for the column.
    """
    key = f"{check_organization(organization_id)}:{reference}"
    if not reference or len(key) > MAX_SESSION_ID_CHARS or _UNSTORABLE.search(reference) is not None:
        most = MAX_SESSION_ID_CHARS - len(organization_id) - 1
        raise InvalidInput(f"A session id is 1 to {most} characters, none of them NUL.", param="session_id")
    return key
