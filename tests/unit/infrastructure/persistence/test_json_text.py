import json

from hypothesis import given
from hypothesis import strategies as st

from app.infrastructure.persistence import json_text

texts = st.text(st.characters(codec=None))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_everything_survives_as_ascii(value: object) -> None:
    encoded = json_text.encode(value)
    assert encoded.isascii()
    assert "\x00" not in encoded
    assert json_text.decode(encoded) == value
    assert json.loads(encoded) == value
