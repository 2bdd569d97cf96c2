from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError

from evolve.audit.collapse import Vitals, distinct_n, entropy, examine, pass_at_k, vitals_of

WORDS = [f"w{index}" for index in range(60)]


def draw(
    rng: np.random.Generator, solve: np.ndarray, *, num_words: int = 60, length: int = 12, samples: int = 8
) -> Vitals:
    texts, answers, right = [], [], []
    for chance in solve:
        hits = rng.random(samples) < chance
        texts.append([" ".join(rng.choice(WORDS[:num_words], size=rng.poisson(length) + 2)) for _ in range(samples)])
        answers.append(["right" if hit else str(rng.integers(6)) for hit in hits])
        right.append(hits.tolist())
    return vitals_of("new", 1, [str(i) for i in range(len(solve))], texts, answers, right)


def chances(seed: int, n: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).beta(0.6, 0.8, size=n)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    for right in range(6):
        row = [True] * right + [False] * (5 - right)
        subsets = [any(one) for one in combinations(row, 2)]
        assert pass_at_k(right, 5, 2) == pytest.approx(sum(subsets) / len(subsets))
    with pytest.raises(ValueError, match="k=6"):
        pass_at_k(1, 5, 6)


def test_variety_is_counted() -> None:
    assert distinct_n(["a b c", "a b d"]) == pytest.approx(3 / 4)
    assert distinct_n(["a a a a"]) == pytest.approx(1 / 3)
    assert distinct_n(["a", ""]) == 1.0
    assert entropy(["x", "x", "y", "y"]) == 1.0
    assert entropy([]) == 0.0


def test_the_same_model_under_fresh_seeds_raises_no_alarm() -> None:
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(10):
        solve = chances(seed, 50)
        alarms += bool(examine(draw(rng, solve), draw(rng, solve), k=4).alarms)
    assert alarms <= 2


def test_getting_better_everywhere_raises_no_alarm() -> None:
    rng, solve = np.random.default_rng(1), chances(1)
    found = examine(draw(rng, solve), draw(rng, np.sqrt(solve)), k=4)
    assert found.pass_at_1[1] > found.pass_at_1[0]
    assert found.answer_entropy[1] < found.answer_entropy[0]
    assert found.alarms == ()


def test_one_thing_said_more_surely_is_narrowing() -> None:
    rng, solve = np.random.default_rng(2), chances(2, 200)
    sharper = np.where(solve > 0.35, np.minimum(1.0, solve + 0.3), 0.0)
    found = examine(draw(rng, solve), draw(rng, sharper), k=8)
    assert found.pass_at_1[1] > found.pass_at_1[0]
    assert [alarm.sign for alarm in found.alarms] == ["pass_at_k"]
    assert found.alarms[0].sentence.startswith("narrowing: pass@8 fell")


def test_shrinking_wording_and_growing_length_are_named() -> None:
    rng, solve = np.random.default_rng(3), chances(3)
    found = examine(draw(rng, solve), draw(rng, solve, num_words=6, length=24), k=4)
    assert {"distinct_n", "word_entropy", "length"} <= {alarm.sign for alarm in found.alarms}
    decline = examine(draw(rng, solve), draw(rng, solve * 0.5), k=4)
    assert decline.alarms[0].sentence.startswith("decline: pass@4 fell")


def test_the_same_problems_are_compared_in_pairs_and_others_are_not() -> None:
    lengths = tuple(float(words) for words in range(10, 201, 10))
    before = Vitals(
        name="new", generation=0, keys=tuple(f"p{words:g}" for words in lengths), right=(1,) * 20, drawn=(2,) * 20,
        distinct_n=(1.0,) * 20, word_entropy=(3.0,) * 20, answer_entropy=(1.0,) * 20, length=lengths,
    )  # fmt: skip
    after = before.model_copy(update={"length": tuple(1.3 * words for words in lengths)})
    moved = after.model_copy(update={"keys": tuple(f"other {key}" for key in after.keys)})
    [alarm] = examine(before, after, k=2).alarms
    assert (alarm.sign, alarm.before, alarm.after) == ("length", 105.0, pytest.approx(136.5))
    assert alarm.p < 1e-5
    assert examine(before, moved, k=2).alarms == (), "a third more is little where problems differ so much in length"
    [loose] = examine(before, moved, k=2, level=0.2).alarms
    assert (loose.sign, loose.p) == ("length", pytest.approx(0.155, abs=0.005))


def in_clusters(right: np.ndarray, size: int, *, name: str = "new") -> Vitals:
    """Clusters of `size` problems, each with its cluster's number of right samples of 8; the rest is constant."""
    count = right.size * size
    return Vitals(
        name=name, generation=1, keys=tuple(f"{name}{i}" for i in range(count)), drawn=(8,) * count,
        right=tuple(np.repeat(right, size).tolist()), distinct_n=(1.0,) * count, word_entropy=(3.0,) * count,
        answer_entropy=(1.0,) * count, length=(9.0,) * count,
        clusters=tuple(f"c{i // size}" for i in range(count)),
    )  # fmt: skip


@pytest.mark.parametrize("later", ["new", "other"])
def test_near_duplicates_raise_no_more_alarms_than_the_level_allows(later: str) -> None:
    """Twenty clusters of five alike, of a model that stays as it is; `other` are fresh problems."""
    rng, alarms, ignored = np.random.default_rng(8), 0, 0
    for _ in range(300):
        solve = rng.beta(0.6, 0.8, size=20)
        then = solve if later == "new" else rng.beta(0.6, 0.8, size=20)
        before, after = in_clusters(rng.binomial(8, solve), 5), in_clusters(rng.binomial(8, then), 5, name=later)
        alarms += bool(examine(before, after, k=4).alarms)
        alone = [one.model_copy(update={"clusters": ()}) for one in (before, after)]
        ignored += bool(examine(alone[0], alone[1], k=4).alarms)
    assert alarms <= 8
    assert ignored > 20, "they would, if each counted by itself"


def test_problems_that_stand_alone_are_tested_as_without_clusters() -> None:
    rng, solve = np.random.default_rng(2), chances(2)
    pair = [draw(rng, solve), draw(rng, solve * 0.5, length=16)]
    named = [one.model_copy(update={"clusters": tuple(f"c{key}" for key in one.keys)}) for one in pair]
    assert examine(*pair, k=4).alarms == examine(*named, k=4).alarms != ()


@pytest.mark.parametrize(("num_problems", "p"), [(3, None), (8, 0.5**8)])
def test_problems_that_all_fall_alike_are_as_much_evidence_as_their_number(num_problems: int, p: float | None) -> None:
    before, after = (in_clusters(np.full(num_problems, right), 1) for right in (4, 1))
    assert [alarm.p for alarm in examine(before, after, k=4).alarms] == ([] if p is None else [p])
    copies = (in_clusters(np.full(2, right), 10) for right in (4, 1))
    assert examine(*copies, k=4).alarms == (), "two clusters are two, however many copies they hold"


def test_other_problems_raise_no_alarm_by_being_others() -> None:
    rng = np.random.default_rng(4)
    before, after = draw(rng, chances(4)), draw(rng, chances(5))
    moved = after.model_copy(update={"keys": tuple(f"other {key}" for key in after.keys)})
    assert examine(before, moved, k=4).alarms == ()
    assert examine(before, moved, k=4).pass_at_1 == examine(before, after, k=4).pass_at_1


def test_unequal_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValidationError, match="same number of samples"):
        vitals_of("x", 0, ["a", "b"], [["t"], ["t", "t"]], [["1"], ["1", "1"]], [[True], [True, True]])
