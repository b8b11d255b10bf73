"""Where tensors lie that share memory."""

from hypothesis import given
from hypothesis import strategies as st

from codesign.memory_plan import Lifetime, plan_memory

SHAPES = {None: None, "a": 7, "b": 12}  # words of tensors with borders; the others have any number


@st.composite
def lifetimes(draw) -> list[Lifetime]:
    tensors = []
    for _ in range(draw(st.integers(1, 30))):
        shape = draw(st.sampled_from(list(SHAPES)))
        first = draw(st.integers(0, 20))
        words = SHAPES[shape] or draw(st.integers(1, 40))
        tensors.append(Lifetime(words, first, first + draw(st.integers(0, 6)), shape))
    return tensors


@given(lifetimes())
def test_what_is_needed_together_lies_apart_and_borders_are_nobody_elses(tensors: list[Lifetime]) -> None:
    bases, total = plan_memory(tensors)
    spans = [range(base, base + one.words) for base, one in zip(bases, tensors, strict=True)]
    assert all(span.start >= 0 and span.stop <= total for span in spans)
    for i, one in enumerate(tensors):
        for j, other in enumerate(tensors[:i]):
            if set(spans[i]) & set(spans[j]):
                together = set(range(one.first, one.last + 1)) & set(range(other.first, other.last + 1))
                assert not together
                assert one.shape == other.shape
                assert one.shape is None or spans[i] == spans[j]
    most = max(sum(one.words for one in tensors if one.first <= step <= one.last) for step in range(30))
    assert most <= total <= sum(one.words for one in tensors)


def test_a_chain_takes_two_places_and_the_lowest_hole_is_used() -> None:
    chain = [Lifetime(10, step, step + 1) for step in range(8)]
    assert plan_memory(chain) == ([0, 10, 0, 10, 0, 10, 0, 10], 20)
    assert plan_memory([Lifetime(30, 0, 1), Lifetime(10, 0, 9), Lifetime(20, 2, 9)]) == ([0, 30, 0], 40)


def test_tensors_with_equal_borders_take_turns() -> None:
    tensors = [Lifetime(5, 0, 1, "x"), Lifetime(5, 2, 3, "x"), Lifetime(5, 2, 3, "x"), Lifetime(5, 4, 5, "y")]
    assert plan_memory(tensors) == ([0, 0, 5, 10], 15)
