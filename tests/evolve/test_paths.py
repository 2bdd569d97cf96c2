from __future__ import annotations

import pytest

from evolve.learning.paths import path_of, steps_of


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("First 3 + 4 = 7.\nThen 7 × 2 = 14.\nAnswer: 14", ("3+4=7", "7*2=14")),
        ("We add 3+4=7 and so 7*2 = $14", ("3+4=7", "7*2=14")),
        ("1,200 - 200 = 1,000", ("1200-200=1000",)),
        ("-3 + 4 = 1", ("-3+4=1",)),
        ("Step 1: John likes tea. Step 2: tea is hot.\nAnswer: tea", ("john likes tea", "tea is hot")),
        ("- The cat  sat!\n2) Then it slept", ("the cat sat", "it slept")),
        ("Answer: 7", ("answer 7",)),
        ("7", ("7",)),
        ("x = 7", ("x 7",)),
        ("", ()),
    ],
)
def test_steps_are_what_was_done_and_not_how_it_was_worded(text: str, steps: tuple[str, ...]) -> None:
    assert steps_of(text) == steps


def test_one_way_in_other_words_is_one_path_and_another_way_is_another() -> None:
    assert path_of("Adding: 3 + 4 = 7\nAnswer: 7") == path_of("I think 3+4 = 7. Answer: 7")
    assert path_of("3 + 4 = 7") != path_of("4 + 3 = 7")
    assert path_of("It is seven.") == path_of("it is  Seven")


def test_a_long_line_of_digits_is_read_in_no_time() -> None:
    assert steps_of("1 " * 5000) != ()
    assert steps_of("(" * 5000 + "1") != ()
