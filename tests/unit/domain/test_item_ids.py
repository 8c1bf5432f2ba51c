from typing import Any

import pytest

from app.domain.item_ids import own_item_id, row_item_id, row_of_item_id
from app.domain.item_texts import spoken

LONG = "rs_0123456789abcdef0123456789"


@pytest.mark.parametrize(
    ("item", "item_id"),
    [
        ({"role": "user", "content": "x"}, "msg_00000000000000ff"),
        ({"type": "message", "role": "user"}, "msg_00000000000000ff"),
        ({"type": "reasoning"}, "rs_00000000000000ff"),
        ({"type": "function_call"}, "fc_00000000000000ff"),
        ({"type": "function_call_output"}, "fco_00000000000000ff"),
        ({"type": "web_search_call"}, "item_00000000000000ff"),
        ({"type": 3}, "msg_00000000000000ff"),
    ],
)
def test_an_id_by_row_leads_back_to_it(item: dict[str, Any], item_id: str) -> None:
    assert row_item_id(item, 255) == item_id
    assert row_of_item_id(item_id) == 255
    assert own_item_id({"id": item_id}) is None


@pytest.mark.parametrize("odd", ["", "msg_", "msg_ff", "msg_00000000000000fg", "msg_ffffffffffffffff", LONG, "x" * 99])
def test_other_ids_lead_to_no_row(odd: str) -> None:
    assert row_of_item_id(odd) is None


@pytest.mark.parametrize("own", [LONG, "msg_68a9c2b1d0f04e6ab1", "fc_" + "a" * 116])
def test_ids_that_endpoints_mint_are_kept(own: str) -> None:
    assert own_item_id({"id": own}) == (own if len(own) > 22 else None)


@pytest.mark.parametrize("own", ["", "__fake_id__", "msg_1", 'msg_"' + "a" * 30, "msg_" + "a" * 200, None, 3, "a" * 40])
def test_ids_that_may_come_twice_are_not(own: Any) -> None:
    assert own_item_id({"id": own}) is None


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"role": "user", "content": "x"}, ("user", "x")),
        ({"role": "assistant", "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]},
         ("assistant", "a\nb")),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}, ("user", "[image]")),
        ({"role": "user", "content": ""}, None),
        ({"role": "developer", "content": "x"}, None),
        ({"type": "function_call", "role": "user", "content": "x"}, None),
    ],
)  # fmt: skip
def test_what_people_read_of_an_item(item: dict[str, Any], words: Any) -> None:
    assert spoken(item) == words
