"""How memories fade: a half-life for their rank, and an end for what nothing ever confirmed; pure."""

from __future__ import annotations

import math

from memory.types import Level, Standing


def decay(age_days: float, half_life_days: float) -> float:
    """0.5 ** (age / half-life), 0 to 1, over whole days, so that the same recall gives the same all day.

    An age below 0 (the clock was set back) counts as 0. An infinite half-life never fades.

    Raises:
        ValueError: a half-life that is not above 0, or an age that is no number.
    """
    if not half_life_days > 0.0:
        raise ValueError(f"half_life_days: expected more than 0, got {half_life_days}; use inf for no decay")
    if math.isnan(age_days):
        raise ValueError("age_days: expected a number of days, got NaN")
    age = max(0.0, age_days)
    whole_days = age if math.isinf(age) else math.floor(age)
    return 1.0 if math.isinf(half_life_days) else 0.5 ** (whole_days / half_life_days)


def is_stale(standing: Standing, age_days: float, half_life_days: float, *, num_half_lives: float = 4.0) -> bool:
    """Whether an entry may be archived: nothing independent ever tested it, nobody used it, and it has faded.

    `age_days` counts from the last time it was seen. Archived means retired with this reason: it stays in the store,
    and may be restored. What was tested fades in rank only, for a checked failure is worth keeping.
    """
    if standing.level is Level.RETIRED or standing.num_passed or standing.num_failed or standing.num_uses:
        return False
    return decay(age_days, half_life_days) <= 0.5**num_half_lives
