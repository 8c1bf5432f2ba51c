"""Strict validators made from the request types of the installed `openai` package.

`openai.types` describes requests as TypedDicts for a type checker: unknown keys pass, `"1"` is an int, iterables are
not looked into. The API is stricter, so the pydantic schema of each type is rewritten before use: unknown keys are
errors, iterables are lists, and unions of objects are told apart by their `type` (or `role`), so that an error names
the one wrong key. Validators are built at first use and kept: a whole request type costs 80 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator
from typing_extensions import get_type_hints

from .wire import ApiError

_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_EXPECTED: dict[str, str] = {
    "string_type": "a string",
    "bool_type": "a boolean",
    "int_type": "an integer",
    "float_type": "a decimal",
    "list_type": "an array of items",
    "dict_type": "an object",
}


def check(hint: object, value: object, param: str) -> None:
    """Refuse `value` unless it is exactly of the type `hint`.

    Raises:
        ApiError: 400 that names the deepest offending parameter below `param`.
    """
    try:
        _validator(hint).validate_python(value, strict=True)
    except ValidationError as error:
        raise _to_api_error(error, value, param) from None


@cache
def parameter_types(*types: type) -> Mapping[str, object]:
    """The parameters of one or more request TypedDicts, by wire name, with their types."""
    merged: dict[str, object] = {}
    for request_type in types:
        merged.update(get_type_hints(request_type))
    return merged


@cache
def _validator(hint: object) -> SchemaValidator:
    # A TypedDict or a union: the adapter takes both, its stub only types.
    adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", hint))
    schema: Any = adapter.core_schema
    definitions = {entry["ref"]: entry for entry in schema.get("definitions", ()) if "ref" in entry}
    return SchemaValidator(_tightened(schema, definitions))


def _tightened(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list | tuple):
        return [_tightened(entry, definitions) for entry in node]
    if not isinstance(node, dict):
        return node
    # Serialisation and metadata hold functions that validation never runs.
    kept = {key: value for key, value in node.items() if key not in ("serialization", "metadata")}
    if kept.get("type") == "literal":
        return kept
    copy = {key: _tightened(value, definitions) for key, value in kept.items()}
    match copy.get("type"):
        case "typed-dict":
            copy["extra_behavior"] = "forbid"
            copy.pop("config", None)
            if "strict" in copy["fields"]:  # required by the types only: the API takes tools without it
                copy["fields"]["strict"]["required"] = False
        case "generator":
            copy["type"] = "list"
        case "union":
            return _tagged(copy, definitions)
        case _:
            pass
    return copy


def _tagged(union: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    for discriminator in ("type", "role"):
        choices: dict[str, Any] = {}
        count = 0
        for choice in union["choices"]:
            for tag in _tags(choice, discriminator, definitions):
                choices[tag] = choice
                count += 1
        distinct = len(choices) == count and all(_tags(c, discriminator, definitions) for c in union["choices"])
        if distinct and count:
            tagged = {key: value for key, value in union.items() if key in ("ref",)}
            return {**tagged, "type": "tagged-union", "discriminator": discriminator, "choices": choices}
    return union


def _tags(choice: Any, discriminator: str, definitions: Mapping[str, Any]) -> list[str]:
    schema = definitions.get(choice.get("schema_ref", ""), choice) if isinstance(choice, dict) else {}
    field = schema.get("fields", {}).get(discriminator) if schema.get("type") == "typed-dict" else None
    if not field or not field.get("required") or field["schema"].get("type") != "literal":
        return []
    return [str(tag) for tag in field["schema"]["expected"]]


def _to_api_error(error: ValidationError, value: object, param: str) -> ApiError:
    """Pick the deepest error: in a union of shapes, that is the one of the shape the caller meant."""
    details = error.errors(include_url=False, include_context=True)
    located = [(_walk(value, detail["loc"], detail["type"]), detail) for detail in details]
    path, detail = max(located, key=lambda pair: len(pair[0]))
    where = param + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    kind, given = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return ApiError(f"Unknown parameter: '{where}'.", param=where, code="unknown_parameter")
    if kind == "missing":
        return missing(where)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = str(context.get("discriminator", "type")).strip("'")
        if kind == "union_tag_not_found":
            return missing(f"{where}.{key}")
        tags = str(context["expected_tags"])
        return invalid_value(f"{where}.{key}", str(context["tag"]), [tag.strip(" '") for tag in tags.split(",")])
    if kind == "literal_error":
        expected = str(context["expected"])
        return ApiError(
            f"Invalid value: '{given}'. Supported values are: {expected}.", param=where, code="invalid_value"
        )
    wanted = _EXPECTED.get(kind, "a different type")
    got = _TYPE_NAMES.get(type(given), "something else")
    return ApiError(
        f"Invalid type for '{where}': expected {wanted}, but got {got} instead.", param=where, code="invalid_type"
    )


def _walk(value: Any, location: Iterable[int | str], kind: str) -> list[int | str]:
    """Keep of a pydantic location the keys and indexes; the names of union members between them are dropped."""
    path: list[int | str] = []
    steps = list(location)
    for number, step in enumerate(steps):
        match value:
            case dict() if step in value:
                value = value[step]
            case list() if isinstance(step, int) and step < len(value):
                value = value[step]
            case dict() if kind == "missing" and number == len(steps) - 1:
                pass  # the key that is missing
            case _:
                continue
        path.append(step)
    return path


def missing(param: str) -> ApiError:
    """The refusal of a body without a required parameter."""
    return ApiError(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def invalid_value(param: str, given: str, supported: Iterable[str]) -> ApiError:
    """The refusal of a value outside a closed set; the message lists the set."""
    names = ", ".join(f"'{name}'" for name in supported)
    return ApiError(f"Invalid value: '{given}'. Supported values are: {names}.", param=param, code="invalid_value")


def at_least(param: str, given: object, least: float) -> None:
    """Refuse a number below `least`; None (the parameter was not given) passes."""
    if isinstance(given, int | float) and given < least:
        kind = "integer" if isinstance(least, int) else "decimal"
        raise ApiError(
            f"Invalid '{param}': {kind} below minimum value. Expected a value >= {least}, but got {given} instead.",
            param=param,
            code=f"{kind}_below_min_value",
        )


def at_most(param: str, given: object, most: float) -> None:
    """Refuse a number above `most`; None (the parameter was not given) passes."""
    if isinstance(given, int | float) and given > most:
        kind = "integer" if isinstance(most, int) else "decimal"
        raise ApiError(
            f"Invalid '{param}': {kind} above maximum value. Expected a value <= {most}, but got {given} instead.",
            param=param,
            code=f"{kind}_above_max_value",
        )


def no_longer_than(param: str, given: object, most: int) -> None:
    """Refuse a string of more than `most` characters; anything else passes."""
    if isinstance(given, str) and len(given) > most:
        raise ApiError(
            f"Invalid '{param}': string too long. Expected a string with maximum length {most}, "
            f"but got a string with length {len(given)} instead.",
            param=param,
            code="string_above_max_length",
        )
