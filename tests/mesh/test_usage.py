"""What calls took adds up."""

from __future__ import annotations

from functools import reduce
from operator import add

from mesh.types import Usage

USED = [
    Usage(prompt_tokens=number, output_tokens=2, num_calls=1, seconds=0.1 * number, engine_seconds=1 / (number + 3))
    for number in range(40)
]


def test_a_total_is_what_adding_one_after_the_other_gives_to_the_last_bit() -> None:
    assert Usage.total(iter(USED)) == reduce(add, USED, Usage())


def test_a_total_of_nothing_is_nothing() -> None:
    assert Usage.total([]) == Usage()
