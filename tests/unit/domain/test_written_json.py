"""What was written as JSON already looks like the object that it is."""

from collections.abc import Mapping

import pytest

from app.domain.written_json import WrittenObject


def test_it_looks_like_the_object() -> None:
    written = WrittenObject('{"b":1,"a":{"deep":[null,"\\u00fc\\u0000"]}}')
    assert isinstance(written, Mapping)
    assert written == {"a": {"deep": [None, "ü\x00"]}, "b": 1}
    assert written == {"b": 1, "a": {"deep": [None, "ü\x00"]}}
    assert written != {"b": 1}
    assert list(written) == ["b", "a"]
    assert (len(written), written["b"], written.get("c")) == (2, 1, None)
    assert {**written}["b"] == 1
    with pytest.raises(KeyError):
        written["c"]


def test_its_text_stays() -> None:
    text = '{"number":1.10}'
    assert WrittenObject(text).text is text
    assert repr(WrittenObject(text)) == f"WrittenObject({text!r})"
