"""Views of texts: what they keep, and what they depend on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrel.encoders import TextAugmentation, TextView

TEXTS = ["one two three four five six seven eight nine ten", "a b c d e f g h", "single", "", "  spaced   out  "]


@given(text=st.text(max_size=60), seed=st.integers(0, 5))
def test_a_view_is_a_part_of_the_text_in_its_order(text, seed):
    (view,) = TextView(0, seed=seed)([text])
    remaining = iter(text.split())
    assert all(word in remaining for word in view.split())
    assert bool(view.split()) == bool(text.split())


def test_a_view_depends_on_position_number_and_seed_alone():
    view = TextView(0)
    assert view(TEXTS) == view(TEXTS) == view(TEXTS[:2]) + view(TEXTS[2:], first=2)
    assert view(TEXTS) != TextView(1)(TEXTS)
    assert view(TEXTS) != TextView(0, seed=1)(TEXTS)
    assert len(set(view([TEXTS[0]] * 20))) > 10


def test_shares_are_kept_to():
    words = " ".join(map(str, range(1000)))
    assert TextView(0, TextAugmentation(least_kept=1.0, deletion=0.0))([words]) == (words,)
    (view,) = TextView(0, TextAugmentation(least_kept=1.0, deletion=0.25))([words])
    assert 0.70 < len(view.split()) / 1000 < 0.80
    lengths = [len(view.split()) for view in TextView(0, TextAugmentation(0.4, 0.0))([words] * 50)]
    assert 400 <= min(lengths) < 500
    assert 900 < max(lengths) <= 1000


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TextAugmentation(least_kept=0.0), "least_kept is 0"),
        (lambda: TextAugmentation(deletion=1.0), "deletion is 1"),
        (lambda: TextView(-1), "number is -1"),
    ],
)
def test_bad_ranges_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
