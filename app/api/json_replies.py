"""JSON out: one encoder for replies and events."""

import json
from typing import Any, Final

import msgspec
from starlette.responses import Response

_encode: Final = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """Return compact JSON; structs by their wire names, decimals and times as text."""
    try:
        return _encode(value)
    except UnicodeEncodeError:  # a lone surrogate: an endpoint or a browser cut an emoji in half
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")


class JsonReply(Response):
    """A JSON reply; takes structs and plain values as they are."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the body."""
        return encode(content)
