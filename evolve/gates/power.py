"""What the gate as a whole will find before it is held: every rival beaten and no guard raised, all at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from pydantic import Field, model_validator

from evolve.gates.conjunction import MEANING, RivalKind
from evolve.gates.gate import HARM_ALPHA, POWER, mcnemar_table
from evolve.gates.intervals import Interval, wilson
from memory.types import Record

ROUNDS = 4000
"""Simulated gates; the error of a power of 80% is then 0.6 points."""
MAX_PROBLEMS = 100_000
"""More are not told to be needed: nobody has them."""
ALIKE = 1.0
"""Correlation of results within a cluster of near duplicates until a gate has shown it: all count as one draw."""
LEAST_EFFECT = 1.01
"""Design effects below this are none: problems that stand alone are tested exactly."""
_BATCH, _BATCH_PROBLEMS = 250, 2_000_000
"""Gates, and problems over all of them, that are simulated at once; larger ones would take gigabytes."""
_EXACT = 10_000
"""Clusters that move, times the problems in them, up to which the exact test by whole clusters is quick enough."""


class Assumed(Record):
    """What is assumed of a gate that has not been held."""

    num_problems: int = Field(ge=1, description="GATE problems")
    num_task_types: int = Field(default=1, ge=1, description="in equal shares; each has its guard")
    accuracy: float = Field(default=0.5, gt=0.0, lt=1.0, description="of the incumbents")
    gain: float = Field(description="true gain over the incumbents, in shares, alike on all task types")
    discordance: float = Field(default=0.2, gt=0.0, le=1.0, description="share of problems that differ from theirs")
    placebo_gain: float | None = Field(default=0.0, description="of form alone over the incumbents; None: no placebo")
    budget_gain: float | None = Field(default=0.0, description="of one more sample; None: no budget control")
    rival_discordance: float | None = Field(
        default=None, description="share on which placebo and budget differ from the incumbents; None: discordance"
    )
    alpha: float = Field(default=0.05, gt=0.0, lt=1.0)
    num_finalists: int = Field(default=1, ge=1, description="Holm's strictest step is assumed: alpha / num_finalists")
    cluster_size: int = Field(default=1, ge=1, description="problems in a cluster of near duplicates")
    cluster_correlation: float = Field(
        default=ALIKE, ge=0.0, le=1.0, description="of results within a cluster; without clusters it says nothing"
    )

    @model_validator(mode="after")
    def _flips_are_chances(self) -> Assumed:
        for gain, discordance in self._arms:
            win, lose = (discordance + gain) / 2, (discordance - gain) / 2
            if min(win, lose) < -1e-12 or win > 1.0 - self.accuracy + 1e-12 or lose > self.accuracy + 1e-12:
                raise ValueError(
                    f"a gain of {gain:g} with a discordance of {discordance:g} is impossible at an accuracy of "
                    f"{self.accuracy:g}; expected |gain| <= discordance, (discordance + gain) / 2 <= 1 - accuracy and "
                    "(discordance - gain) / 2 <= accuracy"
                )
        return self

    @property
    def rivals(self) -> tuple[RivalKind, ...]:
        """Who has to be beaten."""
        more: list[tuple[RivalKind, float | None]] = [("placebo", self.placebo_gain), ("budget", self.budget_gain)]
        return ("incumbent", *(kind for kind, gain in more if gain is not None))

    @property
    def level(self) -> float:
        """Level of each single test."""
        return self.alpha / self.num_finalists

    @property
    def design_effect(self) -> float:
        """How many times as many problems these have to be as independent ones would, for errors as small."""
        return 1.0 + (self.cluster_size - 1) * self.cluster_correlation

    @property
    def alike(self) -> str:
        """What near duplicates take away, to be said after the number of problems; empty: there are none."""
        if self.design_effect < LEAST_EFFECT:
            return ""
        return f" (worth {self.num_problems / self.design_effect:.0f} that stand alone, for near duplicates)"

    @property
    def _arms(self) -> list[tuple[float, float]]:
        """(gain, discordance) towards the incumbents of the candidate and of each further rival."""
        other = self.discordance if self.rival_discordance is None else self.rival_discordance
        return [(self.gain, self.discordance)] + [
            (gain, other) for gain in (self.placebo_gain, self.budget_gain) if gain is not None
        ]


class ConjunctionPower(Record):
    """How often a gate held under these assumptions lets the candidate pass."""

    assumed: Assumed
    rounds: int = Field(description="simulated gates")
    num_passed: int
    beaten: tuple[tuple[RivalKind, float], ...] = Field(description="share of gates in which each rival was beaten")
    all_beaten: float
    unharmed: float = Field(description="share of gates in which no guard refused")

    @property
    def power(self) -> float:
        """Share of gates that the candidate passed."""
        return self.num_passed / self.rounds

    @property
    def interval(self) -> Interval:
        """95% interval of the power, for the noise of the simulation."""
        return wilson(self.num_passed, self.rounds)

    @property
    def sentence(self) -> str:
        """For people, before a run."""
        parts = ", ".join(f"{MEANING[kind]} {share:.0%}" for kind, share in self.beaten)
        a = self.assumed
        return (
            f"a candidate truly {a.gain * 100:+.1f} points above the incumbents passes the gate with a chance of "
            f"{self.power:.0%} ({a.num_problems} problems{a.alike} of {a.num_task_types} task types, {a.num_finalists} "
            f"finalists, alpha {a.alpha:.2g}); it is shown to beat {parts}; no guard refuses it {self.unharmed:.0%}"
        )


def conjunction_power(assumed: Assumed, *, rounds: int = ROUNDS, seed: int = 0) -> ConjunctionPower:
    """Simulate whole gates: every test at the level of Holm's strictest step, every guard, one shared table of results.

    Placebo and budget flip the incumbents' results independently of the candidate. In a run all arrangements share
    the seats that were not replaced, which makes them differ less, so the figure is on the safe side. With many
    clusters the tests are the normal approximation of the exact test by whole clusters.
    """
    rng = np.random.default_rng(seed)
    simulate = _clustered if assumed.cluster_size > 1 and assumed.cluster_correlation > 0.0 else _independent
    beaten, unharmed = simulate(assumed, rounds, rng)
    every = beaten.all(axis=1)
    return ConjunctionPower(
        assumed=assumed,
        rounds=rounds,
        num_passed=int(np.sum(every & unharmed)),
        beaten=tuple(zip(assumed.rivals, beaten.mean(axis=0).tolist(), strict=True)),
        all_beaten=float(every.mean()),
        unharmed=float(unharmed.mean()),
    )


def equal_clusters(design_effect: float) -> tuple[int, float]:
    """(`cluster_size`, `cluster_correlation`) of the smallest equal clusters of this design effect; (1, ...): none.

    Real clusters are unequal. What they do to an error is in the design effect, which `PairedTest` measures; where
    whole clusters count as one draw it is the size of a problem's cluster, mean over problems.
    """
    if design_effect < LEAST_EFFECT:
        return 1, ALIKE
    size = math.ceil(design_effect)
    return size, (design_effect - 1.0) / (size - 1)


def with_gain(assumed: Assumed, gain: float) -> Assumed:
    """The same gate of a candidate of this gain, which may be 1 - accuracy at most; its rivals stay as they are.

    The candidate differs on no fewer problems than its gain needs, and on no more than the incumbents' mistakes leave.
    """
    rivals = assumed.discordance if assumed.rival_discordance is None else assumed.rival_discordance
    share = max(gain, min(assumed.discordance, 2.0 * (1.0 - assumed.accuracy) - gain))
    return assumed.model_copy(update={"gain": gain, "discordance": share, "rival_discordance": rivals})


def detectable_conjunction(
    assumed: Assumed, *, power: float = POWER, rounds: int = 2000, seed: int = 0
) -> ConjunctionPower | None:
    """Power at the smallest gain over the incumbents (to 0.1 points) that passes with the chance `power`.

    The gain in `assumed` is ignored; the rivals' gains stay as they are. A gain larger than the discordance takes the
    discordance with it, see `with_gain`. None: not even a candidate that is right on every problem passes so often.
    """

    def at(gain: float) -> ConjunctionPower:
        return conjunction_power(with_gain(assumed, gain), rounds=rounds, seed=seed)

    # Most gates find their gain within the discordance: the wider search is for the small ones.
    most = 1.0 - assumed.accuracy
    for low, high in pairwise(sorted({0.0, min(assumed.discordance, most), most})):
        if (best := at(high)).power >= power:
            return _smallest(at, low, best, power)
    return None


def _smallest(
    at: Callable[[float], ConjunctionPower], low: float, best: ConjunctionPower, power: float
) -> ConjunctionPower:
    """Between a gain `low` that passes too seldom and that of `best`, which passes often enough."""
    high = best.assumed.gain
    while high - low > 1e-3:
        middle = (low + high) / 2
        found = at(middle)
        low, high, best = (low, middle, found) if found.power >= power else (middle, high, best)
    return best


def problems_needed(
    assumed: Assumed, gain: float, *, power: float = POWER, rounds: int = 1000, seed: int = 0
) -> int | None:
    """Smallest number of problems (to 4%) at which a candidate of this gain passes with the chance `power`.

    In clusters it is as many times more as their design effect, which is a little too many. None: no number up to
    100,000 that stand alone is enough, or there is no such gain.
    """
    if not 0.0 < gain <= 1.0 - assumed.accuracy:
        return None
    wanted = with_gain(assumed, gain).model_copy(update={"cluster_size": 1})

    def is_enough(count: int) -> bool:
        held = wanted.model_copy(update={"num_problems": count})
        return conjunction_power(held, rounds=rounds, seed=seed).power >= power

    low, high = 0, 10
    while not is_enough(high):
        if high >= MAX_PROBLEMS:
            return None
        low, high = high, min(MAX_PROBLEMS, 2 * high)
    while high - low > max(1, high // 25):
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return round(high * assumed.design_effect)


def guarded_power(sizes: Sequence[int], discordance: float, gain: float, level: float) -> float:
    """Exact chance to beat the incumbents at `level` with no guard raised, by enumerating every outcome.

    `sizes` are problems of each task type. Against one rival only; the check on `conjunction_power`.
    """
    total = sum(sizes)
    win, lose = (discordance + gain) / 2, (discordance - gain) / 2
    product = np.ones((total + 1, (total + 1) // 2 + 1), dtype=complex)
    for size in sizes:
        product = product * np.fft.rfft2(_unharmed_outcomes(size, win, lose), (total + 1, total + 1))
    chances = np.fft.irfft2(product, (total + 1, total + 1))
    wins, losses = np.indices(chances.shape)
    needed = mcnemar_table(total, level)
    possible = wins + losses <= total
    shown = wins >= needed[np.where(possible, wins + losses, 0)]
    return float(min(1.0, max(0.0, chances[possible & shown].sum())))


def _unharmed_outcomes(size: int, win: float, lose: float) -> np.ndarray:
    """Chance of (wins, losses) in one task type, 0 where its guard refuses."""
    wins, losses = np.indices((size + 1, size + 1))
    flips = wins + losses
    possible = flips <= size
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])
    ways = factorial[size] - factorial[wins] - factorial[losses] - factorial[np.where(possible, size - flips, 0)]
    logs = ways + _times_log(wins, win) + _times_log(losses, lose) + _times_log(size - flips, 1.0 - win - lose)
    harmed = losses >= mcnemar_table(size, HARM_ALPHA)[np.where(possible, flips, 0)]
    return np.where(possible & ~harmed, np.exp(np.where(possible, logs, -np.inf)), 0.0)


def _times_log(count: np.ndarray, share: float) -> np.ndarray:
    if share <= 1e-15:
        return np.where(count > 0, -np.inf, 0.0)
    return np.asarray(count * np.log(share))


def _cells(assumed: Assumed) -> tuple[np.ndarray, np.ndarray]:
    """(chance of each outcome of a problem, its steps: candidate less each rival, shape (outcomes, rivals))."""
    arms = assumed._arms
    chances, steps = [], []
    for code in range(2 ** (len(arms) + 1)):
        base = code & 1
        chance = assumed.accuracy if base else 1.0 - assumed.accuracy
        results = []
        for place, (gain, discordance) in enumerate(arms):
            flips = code >> (place + 1) & 1
            share = (discordance - gain) / 2 / assumed.accuracy if base else (discordance + gain) / 2
            share = share if base else share / (1.0 - assumed.accuracy)
            chance *= share if flips else 1.0 - share
            results.append(base ^ flips)
        chances.append(max(0.0, chance))
        steps.append([results[0] - rival for rival in (base, *results[1:])])
    total = np.asarray(chances)
    return total / total.sum(), np.asarray(steps)


def _sizes(assumed: Assumed) -> list[int]:
    share, rest = divmod(assumed.num_problems, assumed.num_task_types)
    return [share + (index < rest) for index in range(assumed.num_task_types)]


def _independent(assumed: Assumed, rounds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rounds, rivals) beaten and (rounds,) unharmed; the exact tests on drawn counts of outcomes."""
    chances, steps = _cells(assumed)
    wins = np.zeros((rounds, steps.shape[1]), dtype=int)
    losses = np.zeros_like(wins)
    unharmed = np.ones(rounds, dtype=bool)
    for size in _sizes(assumed):
        counts = rng.multinomial(size, chances, size=rounds)
        won, lost = counts @ (steps > 0), counts @ (steps < 0)
        unharmed &= lost[:, 0] < mcnemar_table(size, HARM_ALPHA)[won[:, 0] + lost[:, 0]]
        wins, losses = wins + won, losses + lost
    return wins >= mcnemar_table(assumed.num_problems, assumed.level)[wins + losses], unharmed


def _clustered(assumed: Assumed, rounds: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """As `_independent`; each problem repeats its cluster's outcome with the chance that gives the correlation."""
    chances, steps = _cells(assumed)
    copies = float(np.sqrt(assumed.cluster_correlation))
    edges = np.cumsum(chances)[:-1]
    sizes = [-(-size // assumed.cluster_size) for size in _sizes(assumed)]
    beaten, unharmed = [], []
    batch = max(1, min(_BATCH, _BATCH_PROBLEMS // assumed.num_problems))
    for start in range(0, rounds, batch):
        count = min(batch, rounds - start)
        sums, fine = [], np.ones(count, dtype=bool)
        for num_clusters, size in zip(sizes, _sizes(assumed), strict=True):
            shape = (count, num_clusters, assumed.cluster_size)
            own = np.searchsorted(edges, rng.random(shape))
            shared = np.searchsorted(edges, rng.random((count, num_clusters, 1)))
            outcomes = np.where(rng.random(shape) < copies, shared, own)
            counted = (np.arange(num_clusters * assumed.cluster_size) < size).reshape(shape[1:])
            totals = (steps[outcomes] * counted[None, :, :, None]).sum(axis=2)
            fine &= ~flips_show(-totals[:, :, :1], HARM_ALPHA)[:, 0]
            sums.append(totals)
        beaten.append(flips_show(np.concatenate(sums, axis=1), assumed.level))
        unharmed.append(fine)
    return np.concatenate(beaten), np.concatenate(unharmed)


def flips_show(totals: np.ndarray, level: float) -> np.ndarray:
    """(rounds, clusters, rivals) cluster sums to (rounds, rivals): is the gain shown when whole clusters flip?

    By the gate's own exact test where few clusters move. Where many do, by its normal approximation, corrected for
    steps: a total moves by twice the smallest cluster sum at the least.
    """
    sizes = np.abs(totals)
    num_moving, reach = int((sizes > 0).sum(axis=1).max()), int(sizes.sum(axis=1).max())
    total = totals.sum(axis=1)
    if num_moving * reach <= _EXACT:
        moving = np.sort(sizes, axis=1)[:, totals.shape[1] - num_moving :]
        return _flip_ps(total, moving, reach) <= level + 1e-12
    step = np.where(sizes > 0, sizes, reach).min(axis=1)
    spread = np.sqrt(np.maximum(1, (totals**2).sum(axis=1)))
    return np.asarray((total - step) / spread >= NormalDist().inv_cdf(1.0 - level))


def _flip_ps(total: np.ndarray, sizes: np.ndarray, reach: int) -> np.ndarray:
    """`evolve.gates.paired.flip_p` of many tests at once; 1 where the total is not above 0.

    `sizes` (rounds, clusters, rivals) are absolute sums, `reach` is what they come to at most. A fair sign of a size
    has the characteristic function cos(angle * size), and their sum the product of these.
    """
    num_totals = 2 * reach + 1
    angles = 2.0 * np.pi / num_totals * np.arange(reach + 1)
    found, which = np.unique(sizes, return_inverse=True)
    cosines, which = np.cos(found[:, None] * angles), which.reshape(sizes.shape)
    product = np.ones((*total.shape, reach + 1))
    for cluster in range(sizes.shape[1]):
        product *= cosines[which[:, cluster]]
    chances = np.fft.irfft(product, num_totals, axis=2)[..., : reach + 1]  # of totals from 0 to reach
    at_least = np.flip(np.cumsum(np.flip(chances, axis=2), axis=2), axis=2)
    return np.where(total > 0, np.take_along_axis(at_least, np.maximum(total, 0)[..., None], axis=2)[..., 0], 1.0)
