"""How far what memory holds is trusted, as a small bar chart in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT, _BASE, _LEFT = 560.0, 170.0, 132.0, 44.0
_COLOURS = ("--good", "--bad", "--warn")
_NAMES = ("work", "fail", "undecided")


def trust_plot(trust: Sequence[Sequence[int]]) -> str:
    """One bar a tenth of trust, stacked by what checks say (see `Holdings.trust`); empty: nothing was checked."""
    most = max((sum(parts) for parts in trust), default=0)
    if not most:
        return ""
    step = (_WIDTH - _LEFT - 8.0) / len(trust)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="Checked experiences by trust" style="font-size:11px;max-width:{_WIDTH:g}px">',
        "<title>Checked experiences by trust</title>",
        _text(_LEFT - 8.0, 24.0, f"{most:,}", "end"),
        _text(_LEFT - 8.0, _BASE, "0", "end"),
        f'<path d="M{_LEFT:g} {_BASE:g}H{_WIDTH - 8:g}" style="stroke:var(--rule)"/>',
    ]
    for place, counts in enumerate(trust):
        top = _BASE
        for count, colour, name in zip(counts, _COLOURS, _NAMES, strict=True):
            height = (_BASE - 20.0) * count / most
            top -= height
            if count:
                words = f"trust {place / len(trust):.1f} to {(place + 1) / len(trust):.1f}: {count:,} that {name}"
                words = words.replace("that undecided", "undecided")
                parts.append(
                    f'<rect x="{_LEFT + place * step + 3:.1f}" y="{top:.1f}" width="{step - 6:.1f}" '
                    f'height="{height:.1f}" style="fill:var({colour})"><title>{escape(words)}</title></rect>'
                )
    for place in range(0, len(trust) + 1, 2):
        parts.append(_text(_LEFT + place * step, _BASE + 16.0, f"{place / len(trust):.1f}", "middle"))
    parts.append(
        _text(_LEFT, _BASE + 33.0, "trust: lower bound of being right; green: works, red: fails, amber: undecided")
    )
    return "\n".join([*parts, "</svg>"])


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:var(--soft)">{escape(words)}</text>'
