"""JSON as the SDK's session tables keep it: ASCII text, so that NUL and lone surrogates survive every database."""

import json
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode(value: Any) -> str:
    """Return compact ASCII JSON of JSON values and dataclasses of them.

    The fast encoder writes UTF-8; text beyond ASCII (rare in keys and ids, common in prose) takes the standard one.
    """
    try:
        encoded = _encode(value)
    except UnicodeEncodeError:  # a lone surrogate: a browser cut an emoji in half
        return _escaped(value)
    # NUL is escaped by both; only non-ASCII bytes need the slower encoder.
    return encoded.decode("ascii") if encoded.isascii() else _escaped(value)


def _escaped(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


def decode(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError:  # lone surrogates again: valid for the standard decoder only
        return json.loads(text)
