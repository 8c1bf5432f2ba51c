"""How events come over HTTP: one, a batch, or CloudEvents; plain or compressed."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.datastructures import Headers

from app.api.errors import HttpError
from app.domain.models.completions import EVENT_TYPES

CLOUD_EVENT: Final = "application/cloudevents+json"
CLOUD_EVENTS: Final = "application/cloudevents-batch+json"
_PREFIX: Final = "ce-"
_ATTRIBUTES: Final = frozenset(
    {"specversion", "id", "source", "type", "time", "data", "data_base64", "datacontenttype"}
)
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class EventBody:
    """What a request brings."""

    events: Sequence[Any]
    single: bool
    """It is one event: when that is refused, the request is."""


def read_events(body: bytes, headers: Headers, max_bytes: int) -> EventBody:
    """Read a request's body.

    Args:
        body: as it was sent.
        headers: its content type and encoding; those that begin with `ce-` make it a CloudEvent in binary mode.
        max_bytes: of the body when it is inflated.

    Raises:
        HttpError: it is no JSON (400), larger than that (413), or encoded in another way than gzip (415).
    """
    value = _json(_inflated(body, headers.get("content-encoding", ""), max_bytes))
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == CLOUD_EVENTS:
        if not isinstance(value, list):
            raise HttpError(400, "invalid_body", "A batch of CloudEvents is an array.")
        return EventBody([_cloud_event(one) for one in value], single=False)
    if not isinstance(value, dict):
        raise HttpError(400, "invalid_body", "The body must be a JSON object.")
    if f"{_PREFIX}specversion" in headers:
        told = {name.removeprefix(_PREFIX): text for name, text in headers.items() if name.startswith(_PREFIX)}
        return EventBody([_cloud_event({**told, "data": value})], single=True)
    if kind == CLOUD_EVENT:
        return EventBody([_cloud_event(value)], single=True)
    if "events" not in value:
        return EventBody([value], single=True)
    others = value.keys() - {"events"}
    if others:
        raise HttpError(400, "unknown_parameter", "A batch has the field 'events' alone.", param=_shown(min(others)))
    if not isinstance(value["events"], list):
        raise HttpError(400, "invalid_type", "'events': a list of events.", param="events")
    return EventBody(value["events"], single=False)


def _inflated(body: bytes, encoding: str, max_bytes: int) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "x-gzip"}:
        message = "A body is sent as it is, or compressed with gzip."
        raise HttpError(415, "unsupported_encoding", message, param="Content-Encoding")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        raise HttpError(400, "invalid_body", "The body is not gzip.", param="Content-Encoding") from None
    if len(inflated) > max_bytes:
        raise HttpError(413, "body_too_large", f"The body is larger than {max_bytes} bytes when it is inflated.")
    if not inflater.eof:
        raise HttpError(400, "invalid_body", "The body ends in the middle of its gzip data.", param="Content-Encoding")
    return inflated


def _json(body: bytes) -> Any:
    try:
        return _decode(body)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, nested beyond what the decoder takes
        raise HttpError(400, "invalid_json", "The body is not JSON.") from None


def _cloud_event(value: Any) -> Any:
    """Return the event in a CloudEvent's data, with what the envelope says where the data say nothing.

    What is no CloudEvent is returned as it is: whoever checks events refuses it. A type may have a prefix, such as
    `com.example.session.completed`.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("data"), Mapping):
        return value
    kind = str(value.get("type", ""))
    told = {
        "event_id": value.get("id"),
        "event_type": next((known for known in EVENT_TYPES if kind == known or kind.endswith(f".{known}")), kind),
        "timestamp": value.get("time"),
        # Who made it, what it is about, and extensions: kept with the event, as everything that we do not know.
        "cloud_event": {name: text for name, text in value.items() if name not in _ATTRIBUTES or name == "source"},
    }
    data: Mapping[str, Any] = value["data"]
    if not data.keys() & {"session_id", "sessionId", "session"}:
        told["session_id"] = value.get("subject")
    known = {"event_id": "eventId", "event_type": "eventType"}
    return {**{name: one for name, one in told.items() if one and known.get(name) not in data}, **data}


def _shown(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name)[:80]
