"""JSON schemas that callers send: checked before a run is started, because they are code for a validator of ours."""

from typing import Annotated, Any, Final

import jsonschema
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from app.api.json_values import JsonObject, nodes

_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


def checked_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema unchanged; a pydantic validator.

    Raises:
        PydanticCustomError: it is no JSON schema (draft 2020-12), or refers to anything outside of itself: the
            validator would fetch that address from inside our network.
    """
    objects = [node for node, _ in nodes(schema) if isinstance(node, dict)]
    if any("$id" in node or not all(_local(node.get(name, "#")) for name in _REFERENCES) for node in objects):
        raise PydanticCustomError("schema_value", "A schema may refer to its own parts only, as #/$defs/name")
    validator = jsonschema.Draft202012Validator
    try:
        validator.check_schema(schema, format_checker=validator.FORMAT_CHECKER)
    except jsonschema.SchemaError as error:
        raise PydanticCustomError("schema_value", "Must be a JSON schema (draft 2020-12)") from error
    return schema


def _local(reference: object) -> bool:
    return isinstance(reference, str) and reference.startswith("#")


OutputSchema = Annotated[JsonObject, AfterValidator(checked_schema)]
"""A JSON schema that may be run."""
