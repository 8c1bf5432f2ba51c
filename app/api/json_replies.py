"""JSON out: one encoder and one spelling of names for replies and events."""

import json
from typing import Any, Final

import msgspec
from starlette.responses import JSONResponse

_encode: Final = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """Return compact JSON; structs by their wire names, decimals and times as text."""
    try:
        return _encode(value)
    except UnicodeEncodeError:  # a lone surrogate: an endpoint or a browser cut an emoji in half
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")


def camel_case(name: str) -> str:
    """Return the wire name of a field: `call_id` is `callId`."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


class JsonReply(JSONResponse):
    """A JSON reply; takes structs and plain values as they are."""

    def render(self, content: Any) -> bytes:
        """Encode the body."""
        return encode(content)
