"""An item's key: what no other item has, whatever the texts."""

import pickle
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from serve.http.schema import _form, parse_request
from serve.models.rollout.shares import key_of
from serve.tasks.protocol import Item

# Few characters, so that texts of different items often run into the same whole.
TEXTS = st.lists(st.text(alphabet="ab\x00é🙂\ud800"), min_size=1, max_size=4)
ITEMS = st.builds(lambda values, options: Item(tuple(values), options), TEXTS, st.text(alphabet="ab", max_size=3))


@given(ITEMS, ITEMS)
def test_other_items_have_other_keys(left: Item, right: Item) -> None:
    assert (left.key == right.key) == (left == right)


def test_texts_do_not_run_into_each_other_or_into_the_options() -> None:
    items = [
        Item(("a", "bc")),
        Item(("ab", "c")),
        Item(("abc",)),
        Item(("a", "b", "c")),
        Item(("a",), "bc"),
        Item(("a", "bc", "")),
    ]
    assert len({item.key for item in items}) == len(items)


def test_a_key_is_the_same_in_every_process() -> None:
    assert Item(("win a prize", "now"), "64").key.hex() == "c1349d53c15344b27b0c3554b522a07d"
    assert pickle.loads(pickle.dumps(Item(("a", "b")))) == Item(("a", "b"))


@given(st.lists(ITEMS, min_size=1, max_size=4), st.lists(ITEMS, min_size=1, max_size=4))
def test_other_requests_have_other_keys_and_of_one_item_its_own(left: list[Item], right: list[Item]) -> None:
    assert (key_of(left) == key_of(right)) == (left == right)
    assert key_of(left[:1]) == left[0].key


class Embedding(BaseModel):
    """Options of which one changes what is computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    changing: ClassVar[tuple[str, ...]] = ("dimensions",)
    dimensions: int = 8
    rounded: bool = False


def test_options_that_change_what_is_computed_are_part_of_the_item() -> None:
    form = _form("Wanted", "Texts.", ("text",), Embedding)
    bodies = ('{"inputs": "a"}', '{"inputs": ["a"], "rounded": true}', '{"inputs": "a", "dimensions": 4}')
    items = [item for body in bodies for item in parse_request(body.encode(), form).items]
    assert items[0] == items[1] != items[2] and items[2].options == '{"dimensions": 4}'
