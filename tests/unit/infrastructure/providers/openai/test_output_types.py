"""Python types of outputs as JSON schemas that another process can go on with."""

import dataclasses
import json
from typing import Any, Literal

import pytest
from agents import AgentOutputSchema
from pydantic import BaseModel
from typing_extensions import TypedDict  # as pydantic wants it before Python 3.12

from app.domain.errors import InvalidInput
from app.infrastructure.providers.openai import wire_json
from app.infrastructure.providers.openai.output_types import JsonSchemaOutput, is_schema, json_output, schema_of_type


class City(BaseModel):
    name: str
    inside: "City | None" = None


@dataclasses.dataclass
class Point:
    x: int


class Pair(TypedDict):
    a: int
    b: Literal["x", "y"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (City, {"name": "Oslo", "inside": {"name": "Grunerlokka", "inside": None}}),
        (Point, {"response": {"x": 1}}),
        (Pair, {"a": 1, "b": "y"}),
        (list[City], {"response": [{"name": "Oslo", "inside": None}]}),
        (int, {"response": 5}),
        (int | None, {"response": None}),
        (Literal["yes", "no"], {"response": "yes"}),
    ],
    ids=str,
)
def test_a_stored_schema_stands_for_the_type(kind: Any, value: Any) -> None:
    theirs = AgentOutputSchema(kind)
    stored = schema_of_type(kind)
    assert stored is not None
    assert is_schema(stored)
    ours = JsonSchemaOutput(wire_json_copy(stored))
    assert ours.json_schema() == theirs.json_schema()
    assert ours.is_strict_json_schema() is theirs.is_strict_json_schema() is True
    text = wire_json.encode(value)
    assert json_output(ours.validate_json(text)) == json_output(theirs.validate_json(text))


def wire_json_copy(schema: Any) -> Any:
    """Return a schema as it comes back from a database."""
    return json.loads(wire_json.encode(schema))


def test_text_needs_no_schema() -> None:
    assert schema_of_type(str) is None
    assert schema_of_type(None) is None
    assert schema_of_type(AgentOutputSchema(str)) is None


def test_a_schema_object_gives_its_own() -> None:
    loose = AgentOutputSchema(dict[str, int], strict_json_schema=False)
    assert schema_of_type(loose) == loose.json_schema()
    assert schema_of_type(JsonSchemaOutput({"type": "object"})) == {"type": "object"}


@pytest.mark.parametrize("kind", [dict[str, int], dict])
def test_a_type_without_a_strict_schema_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        schema_of_type(kind)
    assert caught.value.param == "output_type"


def test_a_caller_s_own_comment_stays() -> None:
    schema = {"type": "object", "$comment": "theirs", "properties": {"response": {}}}
    assert JsonSchemaOutput(schema).json_schema() == schema
    assert JsonSchemaOutput(schema).validate_json('{"response": 1}') == {"response": 1}
