"""Structured output: JSON schemas as the SDK wants them, and final outputs as JSON values."""

from collections.abc import Mapping
from typing import Any, Final

import jsonschema
import msgspec
from agents import AgentOutputSchema, AgentOutputSchemaBase, ModelBehaviorError, UserError
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python
from referencing import Registry
from referencing.exceptions import Unresolvable

from app.domain.errors import InvalidInput
from app.infrastructure.providers.openai import wire_json

_WRAPPER_KEY: Final = "response"
"""The property in which the SDK wraps what is no JSON object: a list, a number, a union."""
_WRAPPED: Final = "durable-agents: the answer is the property `response`"
"""Stands in the `$comment` of a schema that was made of such a type; it is not sent to the model."""


class JsonSchemaOutput(AgentOutputSchemaBase):
    """An output type given as a JSON schema, by a caller that has no Python type for it."""

    def __init__(self, schema: Mapping[str, Any], name: str = "final_output") -> None:
        """The schema is sent as it is; `strict` mode applies when it forbids additional properties."""
        self._schema = dict(schema)
        self._is_wrapped = self._schema.get("$comment") == _WRAPPED
        if self._is_wrapped:
            del self._schema["$comment"]
        self._name = name
        # An empty registry: a reference to elsewhere is not fetched. No patterns: the caller's could take for ever.
        self._validator = jsonschema.Draft202012Validator(_without_patterns(self._schema), registry=Registry())

    def is_plain_text(self) -> bool:
        """Never."""
        return False

    def name(self) -> str:
        """Return the name the endpoint sees."""
        return self._name

    def json_schema(self) -> dict[str, Any]:
        """Return the schema."""
        return self._schema

    def is_strict_json_schema(self) -> bool:
        """Tell whether the endpoint may enforce it: every property required, no others allowed."""
        properties = self._schema.get("properties", {})
        return self._schema.get("additionalProperties") is False and set(self._schema.get("required", [])) == set(
            properties
        )

    def validate_json(self, json_str: str) -> Any:
        """Return the value.

        Raises:
            ModelBehaviorError: the answer is no JSON, or does not follow the schema.
        """
        try:
            value = msgspec.json.decode(json_str)
        except msgspec.DecodeError as error:
            raise ModelBehaviorError("The answer is not JSON.") from error
        try:
            broken = next(self._validator.iter_errors(value), None)
        except Unresolvable as error:
            raise ModelBehaviorError("The JSON schema refers to something outside of itself.") from error
        if broken is not None:
            raise ModelBehaviorError("The answer does not follow the JSON schema.")
        return value[_WRAPPER_KEY] if self._is_wrapped else value


def schema_of_type(output_type: Any) -> dict[str, Any] | None:
    """Return the JSON schema that a Python type stands for, to be stored where the type cannot be; None for text.

    A run with this schema as its `output_schema` asks the model for the same, and its output has the same JSON form:
    another process can go on with a run that was started with a type. It is the SDK's schema of the type, strict.

    Raises:
        InvalidInput: no strict schema can be made of the type.
    """
    if output_type is None or output_type is str:
        return None
    try:
        made = output_type if isinstance(output_type, AgentOutputSchemaBase) else AgentOutputSchema(output_type)
        if made.is_plain_text():
            return None
        schema = dict(made.json_schema())
    except (UserError, PydanticUserError, TypeError, ValueError, NameError) as error:
        raise InvalidInput("No strict JSON schema can be made of the output type.", param="output_type") from error
    if isinstance(made, AgentOutputSchema) and made._is_wrapped:  # pyright: ignore[reportPrivateUsage] - nothing else tells
        schema["$comment"] = _WRAPPED
    return schema


def is_schema(schema: Mapping[str, Any]) -> bool:
    """Tell whether a mapping is a JSON schema at all."""
    try:
        jsonschema.Draft202012Validator.check_schema(dict(schema))
    except jsonschema.SchemaError:
        return False
    return True


def _without_patterns(schema: Any) -> Any:
    """Return a schema without regular expressions; endpoints enforce those themselves where they support them."""
    if isinstance(schema, dict):
        return {
            name: _without_patterns(value)
            for name, value in schema.items()
            if name not in {"pattern", "patternProperties"} or not isinstance(value, str | dict)
        }
    return [_without_patterns(part) for part in schema] if isinstance(schema, list) else schema


def json_output(final_output: object) -> Any:
    """Return a final output as JSON values: text stays text, models and dataclasses become objects, never a repr."""
    return final_output if isinstance(final_output, str) else to_jsonable_python(final_output, fallback=str)


def text_output(output: Any) -> str:
    """Return an output for people to read: text as it is, anything else as JSON."""
    return output if isinstance(output, str) else wire_json.encode(output)
