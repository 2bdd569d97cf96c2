from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.equivalence import canonical
from mesh.parse import MAX_ANSWER_CHARS, MAX_FREE_CHARS, own_words, parse_answer

KINDS = st.sampled_from(["number", "text", "math", "free"])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7", "7"),
        ("Answer: 7", "7"),
        ("answer: 5\nNo wait.\nAnswer: 7 apples, not 5", "7"),
        ("**Answer:** 12", "12"),
        ("Answer:\n\n  9", "9"),
        ("The answer is 1,234.50.", "1234.50"),
        ("so we get\n#### -3", "-3"),
        (r"thus \boxed{42}!", "42"),
        (r"thus \boxed{\frac{1}{2}}", "1/2"),
        ("3 + 4 = 7", "7"),
        ("7 = 3 + 4", "7"),
        ("x = - 4", "-4"),
        ("I add 3 and 4 to get 7", "7"),
        ("-$5", "-5"),
        ("10-4", "4"),
        ("−8", "-8"),
        (".5", ".5"),
        ("\n\n 1,000,000 \n 3", "1000000"),
        ("7\nQuestion: What is 1 + 1?\nAnswer: 2", "7"),
    ],
)
def test_a_number_is_read_where_it_stands(text: str, answer: str) -> None:
    assert parse_answer(text, "number") == answer


@pytest.mark.parametrize(
    "text", ["", "  \n ", "no idea", "Answer:", "3 + 4 = ?", "H2O", "#### ", r"\boxed{}", "7" * 999]
)
def test_what_holds_no_number_is_an_abstention(text: str) -> None:
    assert parse_answer(text, "number") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"),
        ("Well.\nAnswer: **Paris**\nbecause", "Paris"),
        ("The answer is Paris.", "Paris."),
        ("New \t  York\nmore", "New York"),
    ],
)
def test_a_text_answer_is_one_line_in_its_own_spelling(text: str, answer: str) -> None:
    assert parse_answer(text, "text") == answer


@pytest.mark.parametrize("text", ["", "...", "''", "Answer: ", "x" * (MAX_ANSWER_CHARS + 1)])
def test_an_empty_or_endless_text_is_an_abstention(text: str) -> None:
    assert parse_answer(text, "text") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{x^2 + 1}", "x^2 + 1"),
        (r"so \boxed{\sqrt{2}} or so", r"\sqrt{2}"),
        ("\\boxed{\\begin{pmatrix}1\\\\\n2\\end{pmatrix}}", "\\begin{pmatrix}1\\\\ 2\\end{pmatrix}"),
        ("\\boxed{5\nnever closed", "5"),
        ("Answer: $x = 5$.", "x = 5"),
        ("Answer:\n\\[\nx = 5\n\\]\nbecause", "x = 5"),
        ("Answer: $$x$$ is it", "x"),
        (r"Answer: \(2\pi r\)", r"2\pi r"),
        ("Answer: $x=1$ or $x=2$", "$x=1$ or $x=2$"),
        ("Answer: 3$x$", "3$x$"),
        ("**Answer:** 1,234", "1234"),
        (r"The answer is $\frac{3}{4}$ of a cake", "0.75"),
        ("x + 1\nis my answer", "x + 1"),
        ("Answer: a\x00b\x1b[31m", "a b [31m"),
    ],
)
def test_a_formula_is_one_line_of_latex(text: str, answer: str) -> None:
    assert parse_answer(text, "math") == answer


@pytest.mark.parametrize("text", ["", "$$", r"\boxed{}", "Answer:", "Answer: .", r"\boxed{" + "x" * 501 + "}"])
def test_what_holds_no_formula_is_an_abstention(text: str) -> None:
    assert parse_answer(text, "math") is None


def test_prose_is_taken_whole_as_one_line() -> None:
    assert (
        parse_answer(" It rains.\n\n Answer: so\x07 it\tdoes. \nQuestion: why?", "free")
        == "It rains. Answer: so it does."
    )


def test_prose_is_never_cut_but_may_be_too_long() -> None:
    assert parse_answer("x" * MAX_FREE_CHARS, "free") == "x" * MAX_FREE_CHARS
    assert parse_answer("x" * (MAX_FREE_CHARS + 1), "free") is None
    assert parse_answer(" \n...", "free") is None


@given(st.text(), KINDS)
def test_parsing_never_raises_and_gives_a_comparable_line(text: str, kind: str) -> None:
    answer = parse_answer(text, kind)
    assert answer is None or (answer.splitlines() == [answer] and canonical(answer, kind))


@given(
    st.lists(
        st.sampled_from(
            [
                "Answer:",
                "####",
                "\\boxed{",
                "\\[",
                "$",
                "\\frac{",
                "}",
                "=",
                "-",
                "1,000",
                "7",
                " ",
                "\n",
                "Question:",
                ".",
            ]
        )
    ),
    KINDS,
)
def test_parsing_never_raises_on_pieces_of_its_own_grammar(pieces: list[str], kind: str) -> None:
    answer = parse_answer("".join(pieces), kind)
    assert answer is None or (answer.splitlines() == [answer] and canonical(answer, kind))


def test_half_a_character_does_not_get_through() -> None:
    answer = parse_answer("Answer: a\ud800b", "text")
    assert answer == "a?b"
    assert parse_answer("\udfff 5", "number") == "5"
    assert parse_answer("$a\ud800$", "math") == "a?"
    assert parse_answer("a\ud800", "free") == "a?"


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1,",
        ",111",
        " ",
        "\n",
        "answer ",
        "answer",
        "Answer:",
        "=",
        "{",
        "\\boxed{",
        "#",
        "-",
        "1 ",
        "\n ",
        "\\frac{",
        "''",
        "$",
        "$x",
        "\\[",
        "\\(",
        "}",
        "\x00",
        "é",
    ],
)
@pytest.mark.parametrize("kind", ["number", "text", "math", "free"])
def test_two_hundred_thousand_characters_are_read_quickly(piece: str, kind: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    for candidate in (text, text + "\nAnswer: 7", "1" + text + "x"):
        answer = parse_answer(candidate, kind)
        if answer is not None:
            canonical(answer, kind)
    assert time.process_time() - started < 5.0  # quadratic work would take minutes


def test_an_invented_next_question_is_not_the_members_own() -> None:
    assert own_words("7\n Question: 1+1\nAnswer: 2") == "7"
    assert own_words("\nQuestion: 1+1") == "\nQuestion: 1+1"


@pytest.mark.parametrize("echo", ["[1030b97]", "[40a23f]\n", "[/40a23f]", "[40a23f]\n[/40a23f]"])
def test_an_echoed_fence_is_no_answer(echo: str) -> None:
    assert parse_answer(echo, "text") is None
    assert parse_answer(f"{echo}\nColm", "text") == "Colm"


@pytest.mark.parametrize("answer", ["[12, 34]", "['32']", "[1]", "[ab cd]"])
def test_a_list_is_no_fence(answer: str) -> None:
    assert parse_answer(answer, "text") == answer
