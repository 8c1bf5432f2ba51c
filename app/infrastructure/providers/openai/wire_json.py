"""JSON text of what goes over the wire, for digests, counts and records: it never refuses a value."""

import json
from typing import Any

import msgspec


def encode(value: Any) -> str:
    """Return the value as JSON; what JSON has no word for becomes its text.

    Lone surrogates, which models and users do send, are kept as escapes: UTF-8 has no bytes for them.
    """
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    try:
        return json.dumps(value, default=str, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(str(type(value)))
