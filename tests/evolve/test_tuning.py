"""Which temperature DEV chooses, for one member and for a council."""

from evolve.tuning import Tried, Tuned, best_of, best_sampled, shared_temperature
from tests.evolve.small_mesh import ADA, BEN


def tuned(name: str, *tried: tuple[float, float]) -> Tuned:
    return Tuned(member=name, tried=tuple(Tried(temperature=t, right=right, n=20) for t, right in tried))


def test_samples_are_drawn_above_0_and_the_greedy_draw_stands_beside_them() -> None:
    ada = tuned("ada", (0.7, 0.4), (0.0, 0.5), (0.3, 0.45))
    assert ada.sampled.temperature == 0.3
    assert ada.greedy is not None
    assert ada.best.temperature == 0.0
    assert tuned("ada", (0.7, 0.5), (0.0, 0.5)).best.temperature == 0.7


def test_the_greedy_draw_alone_is_how_it_is_sampled_when_nothing_else_was_tried() -> None:
    ada = tuned("ada", (0.0, 0.5))
    assert ada.sampled.temperature == 0.0
    assert ada.greedy is None


def test_the_best_single_may_be_another_than_the_best_to_sample() -> None:
    known = {"ada": tuned("ada", (0.7, 0.4), (0.0, 0.6)), "ben": tuned("ben", (0.7, 0.5), (0.0, 0.5))}
    assert best_of([ADA, BEN], known) == ADA
    assert best_sampled([ADA, BEN], known) == BEN


def test_a_council_talks_at_the_temperature_that_is_best_for_all_of_it() -> None:
    known = {
        "ada": tuned("ada", (0.7, 0.4), (0.3, 0.5), (0.0, 0.9)),
        "ben": tuned("ben", (0.7, 0.5), (0.3, 0.45), (0.0, 0.9)),
    }
    assert shared_temperature([ADA, BEN], known) == 0.3
