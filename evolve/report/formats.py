"""How a report prints numbers, times and text that models wrote: the filters of its template."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Any

from evolve.report.data import AccuracyRow
from evolve.report.evolution import Counts
from evolve.report.headline import points, share, signed
from evolve.report.measure import Comparison


def number(value: int) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """'8 s', '4 min 05 s' or '2 h 03 min'."""
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def operations(value: float) -> str:
    """Floating-point operations: '8.2 PFLOP'; a dash for none."""
    if value <= 0.0:
        return "–"
    for factor, unit in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} FLOP"


def money(value: float | None, currency: str = "") -> str:
    """'3.20 EUR'; a dash for None."""
    return "–" if value is None else f"{value:,.2f} {currency}".strip()


def percent(value: float | None) -> str:
    """'12%'; a dash for None."""
    return "–" if value is None else f"{100 * value:.0f}%"


def moment(value: datetime) -> str:
    """Date and time to the minute, with the zone where it is known."""
    return value.strftime("%Y-%m-%d %H:%M %Z").strip()


def pvalue(value: float | None) -> str:
    """Two significant digits, '< .001' below that, a dash for None."""
    if value is None:
        return "–"
    if value < 0.001:
        return "< .001"
    return share(value, 3 if value < 0.1 else 2)


def of(part: int, whole: int) -> str:
    """A count with its share: '12 (40%)'."""
    return f"{part:,} ({100 * part / whole:.0f}%)" if whole else f"{part:,}"


def total(counts: Counts) -> int:
    """Sum of the counts."""
    return sum(count for _, count in counts)


def lookup(counts: Counts, name: str) -> str:
    """The count called `name`, a dash without one."""
    return next((number(count) for key, count in counts if key == name), "–")


def num_problems(row: AccuracyRow) -> str:
    """How many problems a row rests on: the most that any of its methods answered; a dash for none."""
    return number(most) if (most := _most(row)) else "–"


def is_smaller_than(comparison: Comparison, row: AccuracyRow) -> bool:
    """Whether a method answered fewer problems than others of its row, so that its own number must be shown."""
    sides = [side for side in (comparison.before, comparison.after) if side]
    return bool(sides) and max(side.n for side in sides) < _most(row)


def _most(row: AccuracyRow) -> int:
    sides = [side for comparison in row.comparisons for side in (comparison.before, comparison.after) if side]
    return max((side.n for side in sides), default=0)


def short(text: str, limit: int) -> str:
    """At most `limit` characters."""
    text = plain(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(text: str) -> str:
    """Text with everything that could hide or reorder what stands beside it made visible.

    Control characters, bidirectional overrides, zero-width characters and lone surrogates become \\u{...}.
    """
    return "".join(f"\\u{{{ord(char):x}}}" if _is_unseen(char) else char for char in text)


def upfirst(text: str) -> str:
    """A sentence with a capital, unless it begins with a name such as 'g1-smollm2-own'."""
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if first.strip(",.:;").isalpha() else text


def _is_unseen(char: str) -> bool:
    return char not in "\n\t" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn"}


FILTERS: dict[str, Callable[..., Any]] = {
    "share": share,
    "signed": signed,
    "points": points,
    "number": number,
    "duration": duration,
    "moment": moment,
    "operations": operations,
    "money": money,
    "percent": percent,
    "pvalue": pvalue,
    "of": of,
    "total": total,
    "lookup": lookup,
    "num_problems": num_problems,
    "short": short,
    "plain": plain,
    "upfirst": upfirst,
}
