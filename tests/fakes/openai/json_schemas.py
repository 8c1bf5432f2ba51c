"""JSON Schemas of callers: the rules of strict mode, and the smallest value that fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .wire import ApiError, JsonObject

_NOT_PERMITTED = ("default", "oneOf", "allOf", "not", "if", "then", "else", "patternProperties", "uniqueItems")
_FORMATS: Mapping[str, str] = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/",
}


def check_strict(schema: object, *, what: str, param: str, code: str | None) -> None:
    """Refuse a schema that strict mode does not take.

    `what` names its owner in the message ("function 'add'", "response_format 'answer'"). Not checked, unlike the real
    API: limits on depth, number of properties and total size, and regular expressions.

    Raises:
        ApiError: 400 with `param` and `code`; the message says where in the schema.
    """

    def refuse(path: tuple[str, ...], reason: str) -> ApiError:
        context = "(" + ", ".join(f"'{step}'" for step in path) + ("," if len(path) == 1 else "") + ")"
        return ApiError(f"Invalid schema for {what}: In context={context}, {reason}", param=param, code=code)

    if not isinstance(schema, dict) or schema.get("type") != "object":
        given = schema.get("type") if isinstance(schema, dict) else schema
        message = (
            f"Invalid schema for {what}: schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{given}\"'."
        )
        raise ApiError(message, param=param, code=code)
    pending: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while pending:
        path, node = pending.pop()
        if not isinstance(node, dict):
            continue
        reason = _strict_fault(node)
        if reason is not None:
            raise refuse(path, reason)
        pending.extend(_below(path, node))


def _strict_fault(node: JsonObject) -> str | None:
    for keyword in _NOT_PERMITTED:
        if keyword in node:
            return f"'{keyword}' is not permitted."
    if "$ref" in node and len(node) > 1:
        siblings = ", ".join(f"'{key}'" for key in node if key != "$ref")
        return f"$ref cannot have keywords {{{siblings}}}."
    if not _is_object(node):
        return None
    if node.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false."
    properties, required = node.get("properties", {}), node.get("required", [])
    for name in properties:
        if name not in required:
            return (
                "'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{name}'."
            )
    for name in required:
        if name not in properties:
            return f"'required' has the key '{name}' that 'properties' does not have."
    return None


def _is_object(node: JsonObject) -> bool:
    declared = node.get("type")
    return declared == "object" or "properties" in node or (isinstance(declared, list) and "object" in declared)


def _below(path: tuple[str, ...], node: JsonObject) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for keyword in ("properties", "$defs", "definitions"):
        for name, entry in (node.get(keyword) or {}).items():
            found.append(((*path, keyword, name), entry))
    if isinstance(node.get("items"), dict):
        found.append(((*path, "items"), node["items"]))
    for number, entry in enumerate(node.get("anyOf") or []):
        found.append(((*path, "anyOf", str(number)), entry))
    return found


def minimal_instance(schema: JsonObject, text: str) -> Any:
    """The smallest value that fits `schema`, the same each time.

    Unconstrained strings are `text`, so that a test still sees what the model would have said; optional properties are
    left out; of alternatives null is taken if there is one, else the first. A `pattern` is not honoured.
    """
    return _instance(schema, schema, text)


def _instance(node: JsonObject, root: JsonObject, text: str) -> Any:
    if "$ref" in node:
        return _instance(_resolve(str(node["$ref"]), root), root, text)
    if "const" in node:
        return node["const"]
    if node.get("enum"):
        return node["enum"][0]
    for keyword in ("anyOf", "oneOf"):
        if node.get(keyword):
            options = node[keyword]
            return _instance(next((o for o in options if o.get("type") == "null"), options[0]), root, text)
    declared = node.get("type", "object" if "properties" in node else "string")
    kind = ("null" if "null" in declared else declared[0]) if isinstance(declared, list) else declared
    match kind:
        case "object":
            properties = node.get("properties", {})
            return {name: _instance(properties.get(name, {}), root, text) for name in node.get("required", [])}
        case "array":
            return [_instance(node.get("items", {}), root, text) for _ in range(int(node.get("minItems", 0)))]
        case "integer" | "number":
            return _number(node)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return _string(node, text)


def _resolve(reference: str, root: JsonObject) -> JsonObject:
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        node = node[step] if step else node
    return node if isinstance(node, dict) else {}


def _number(node: JsonObject) -> float:
    if "exclusiveMinimum" in node:
        return node["exclusiveMinimum"] + 1
    if "minimum" in node:
        return node["minimum"]
    if "exclusiveMaximum" in node:
        return min(0, node["exclusiveMaximum"] - 1)
    return min(0, node.get("maximum", 0))


def _string(node: JsonObject, text: str) -> str:
    if node.get("format") in _FORMATS:
        return _FORMATS[node["format"]]
    padded = text.ljust(int(node.get("minLength", 0)), ".")
    return padded[: int(node["maxLength"])] if "maxLength" in node else padded
