from __future__ import annotations

import random

import pytest

from evolve.learning.quality import QualityConfig, Sample, check, distinct_n, loop_chars, measure, samples_of, words_of
from evolve.learning.recipe_rows import TrainingRow
from mesh.types import Completion, Deliberation, Exchange, Member, Message, Part, Task, Verdict

SENTENCE = "first add the two numbers then carry over what is left and write down the sum at last"
WORDS = SENTENCE.split()


def sentence(number: int) -> str:
    rng = random.Random(number)
    return " ".join(rng.sample(WORDS, 9)) + f". Answer: {number}"


def row(number: int, task_type: str = "sum", completion: str = "") -> TrainingRow:
    prompt = (Message(role="user", parts=(Part(text=f"What is {number} + 1?"),)),)
    return TrainingRow(
        task_id=str(number), task_type=task_type, messages=prompt, completion=completion or sentence(number)
    )


ROWS = [row(number) for number in range(40)]


def samples(*texts: str, finished: bool = True) -> list[Sample]:
    return [Sample(task_type="sum", text=text, finished=finished) for text in texts]


GOOD = samples(*(sentence(1000 + number) for number in range(40)))


def spoiled(share: float, text: str) -> list[Sample]:
    bad = round(share * len(GOOD))
    return samples(*[text] * bad) + GOOD[bad:]


def test_texts_like_the_rows_are_fine():
    assert check(GOOD, ROWS) is None
    found = measure(GOOD, ROWS)
    assert (found.empty, found.looping, found.unfinished) == (0, 0, 0)
    assert found.unseen == 0, "numbers are not words, and 'Answer' is in the rows"
    assert found.length_ratio == pytest.approx(1, abs=0.1)
    assert found.distinct == pytest.approx(1, abs=0.2)


def test_bare_numbers_as_answers_are_fine_though_they_repeat():
    rows = [row(number, completion=str(number % 7)) for number in range(40)]
    assert check(samples(*(str(number % 5) for number in range(40))), rows) is None


def test_words_that_the_question_gave_are_no_gibberish():
    names = [f"{chr(97 + n % 26)}{chr(97 + n // 26)}mund" for n in range(40)]
    copied = [Sample(task_type="sum", text=f"{name} {name}", asked=frozenset({name})) for name in names]
    assert measure(copied, ROWS).unseen == 0
    invented = [one.model_copy(update={"asked": frozenset({"who"})}) for one in copied]
    assert measure(invented, ROWS).unseen == 1


def test_a_samples_words_are_those_of_the_prompt_it_answered():
    verdict = Verdict(answer="Areez", method="m")
    said = Deliberation(
        id="1",
        task=Task(id="t", question="?", type="sum", answer_kind="text"),
        members=(Member(name="ada", engine="ada", family="f"),),
        protocol="vote",
        seed=0,
        exchanges=(
            Exchange(
                member="ada",
                phase="propose",
                messages=(Message(role="user", parts=(Part(text="Areez adores tea. Who adores tea?"),)),),
                completions=(Completion(text="Areez", finish_reason="length"),),
            ),
        ),
        first_verdict=verdict,
        verdict=verdict,
    )
    asked = frozenset({"areez", "adores", "tea", "who", ".", "?"})
    assert samples_of([said], "ada") == [Sample(task_type="sum", text="Areez", asked=asked, finished=False)]


def test_loops_are_found_whatever_repeats():
    assert loop_chars("so " + "and then " * 12) > 100
    assert loop_chars("a" * 40) == 40
    assert loop_chars("well, " + "1, 2, 3, " * 6 + "1, 2") > 50, "cut off in the middle of the pattern"
    assert loop_chars("7 + 7 + 7 + 7 = 28") == 0
    assert loop_chars("1 1 1 1 1") == 0, "too short to tell from an answer"
    assert loop_chars(sentence(3)) == 0
    assert loop_chars("") == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (spoiled(0.5, "the sum of the " * 10), "50% of 40 texts end in a loop, more than 10%"),
        (spoiled(0.5, ""), "50% of 40 texts are empty, more than 20%"),
        (samples(*(s.text for s in GOOD), finished=False), "100% of 40 texts are cut off at the token limit"),
        (samples(*(f"qx{chr(97 + n % 26)}v zzw {sentence(n)[:5]}" for n in range(40))), "of the words are in no row"),
        (spoiled(0.8, sentence(7)), "of the texts of a task type are the same"),
        (samples(*(sentence(n) * 5 for n in range(40))), "times as long as the rows, outside 0.33 to 3"),
        (samples(*(str(n) for n in range(40))), "times as long as the rows"),
    ],
)
def test_what_is_wrong_is_said_with_its_number_and_limit(bad, reason):
    assert reason in (check(bad, ROWS) or "")


def test_poor_wording_is_measured_against_as_many_words_of_the_rows():
    poor = samples(*(f"the sum the sum at last {n} the sum the sum at last {n}" for n in range(40)))
    assert "different word pairs as in the rows" in (check(poor, ROWS) or "")
    assert distinct_n([["a", "b", "a", "b"]], 2) == pytest.approx(2 / 3)
    assert distinct_n([["a"]], 2) is None


def test_what_the_incumbent_does_already_is_not_held_against_a_candidate():
    bad = spoiled(0.5, "the sum of the " * 10)
    assert check(bad, ROWS, before=spoiled(0.45, "the sum of the " * 10)) is None
    assert check(bad, ROWS, before=spoiled(0.2, "the sum of the " * 10)) is not None
    longer = samples(*(sentence(n) * 5 for n in range(40)))
    assert check(longer, ROWS, before=longer) is None


def test_too_few_texts_are_not_judged():
    assert check(samples(*[""] * 15), ROWS) is None
    assert check(samples(*[""] * 15), ROWS, QualityConfig(min_texts=15)) is not None


def test_lengths_are_compared_within_a_task_type():
    rows = ROWS + [row(number, "long", " ".join(WORDS * 10)) for number in range(40)]
    texts = [*GOOD, *(Sample(task_type="long", text=" ".join(WORDS * 9)) for _ in range(3))]
    assert measure(texts, rows).length_ratio == pytest.approx(1, abs=0.1)
    assert measure(samples("x"), []).length_ratio is None


def test_words_numbers_and_signs_are_told_apart():
    assert words_of("It's 12.5 + x_1!") == ["It", "'", "s", "12", ".", "5", "+", "x", "1", "!"]
