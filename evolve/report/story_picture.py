"""The story around an experience as a picture: inline SVG in the page's own colours and type, light and dark."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from html import escape

from evolve.report.layers import BOX_HEIGHT, BOX_WIDTH, GUTTER, HEAD, MARGIN, Box, Layout, Line, Point, lay_out
from memory.story import Node, Story, readable, verdict_of, works
from memory.types import Level, Relation

_LINE_PX = 168.0
_TITLE_CHARS = 600

_STYLE = """
.story text{font-size:12px;fill:var(--ink)}
.story .soft,.story .head{fill:var(--soft);font-size:11px}
.story .kind{font-weight:600}
.story .box{fill:var(--panel);stroke:var(--rule)}
.story .asked .box{stroke:var(--after);stroke-width:2.5}
.story .retired .box{stroke-dasharray:4 3}
.story .retired text{fill:var(--soft)}
.story .mark{fill:var(--soft)}
.story .works .mark,.story .works .state{fill:var(--good)}
.story .fails .mark,.story .fails .state{fill:var(--bad)}
.story .candidate .mark,.story .candidate .state{fill:var(--warn)}
.story .retired .mark{fill:var(--rule)}
.story .line{fill:none;stroke:var(--before);stroke-width:1.6}
.story .arrow{fill:var(--before)}
.story .solved.line{stroke:var(--good)}.story .solved.arrow{fill:var(--good)}
.story .failed_with.line,.story .contradicts.line{stroke:var(--bad)}
.story .failed_with.arrow,.story .contradicts.arrow{fill:var(--bad)}
.story .supersedes.line,.story .repeats.line,.story .contradicts.line{stroke-dasharray:5 4}
"""

_ALONE = """
.story{--paper:#fff;--panel:#f6f7f9;--ink:#1b1f24;--soft:#59636e;--rule:#c3cad2;--before:#97a1ad;--after:#1f6feb;
--good:#1a7f37;--bad:#c0362c;--warn:#9a6700;background:var(--paper);
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
@media (prefers-color-scheme:dark){.story{--paper:#0f1318;--panel:#181e25;--ink:#e4e9ee;--soft:#9aa5b1;--rule:#3d4650;
--before:#7d8793;--after:#58a6ff;--good:#4cc26a;--bad:#ff8076;--warn:#d8a53a}}
"""
"""The page's colours, for a picture that stands in no page."""


def story_svg(story: Story, *, alone: bool = False) -> str:
    """One <svg> element; `alone` makes it a file of its own. Texts of models are escaped and made one line."""
    layout = lay_out(story)
    legend = _legend(story)
    width, height = layout.width, layout.height + 24.0
    attributes = f'class="story" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img"'
    attributes += ' aria-label="The story of one experience"'
    if alone:
        attributes += ' xmlns="http://www.w3.org/2000/svg"'
    nodes = story.by_id
    parts = [
        f"<svg {attributes}>",
        f"<title>The story of {escape(story.id[:8])}: {len(nodes)} experiences</title>",
        f"<style>{_ALONE if alone else ''}{_STYLE}</style>",
        *_heads(layout),
        *(part for line in layout.lines for part in _line(line, story)),
        *(part for box in layout.boxes for part in _box(box, nodes[box.id], is_asked=box.id == story.id)),
        f'<text class="soft" x="{MARGIN:g}" y="{height - 12:g}">{escape(legend)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _heads(layout: Layout) -> Iterator[str]:
    for number, title in enumerate(layout.titles):
        x = MARGIN + number * (BOX_WIDTH + GUTTER)
        yield f'<text class="head" x="{x:g}" y="{HEAD - 6:g}">{escape(title)}</text>'


def _box(box: Box, node: Node, *, is_asked: bool) -> Iterator[str]:
    standing, experience = node.standing, node.experience
    classes = f"{_state(node)} asked" if is_asked else _state(node)
    yield f'<g class="{classes}">'
    yield f"<title>{escape(readable(experience.text)[:_TITLE_CHARS])}\n{escape(verdict_of(node))}</title>"
    yield f'<rect class="box" x="{box.x:g}" y="{box.y:g}" width="{BOX_WIDTH:g}" height="{BOX_HEIGHT:g}" rx="6"/>'
    yield f'<rect class="mark" x="{box.x:g}" y="{box.y + 6:g}" width="4" height="{BOX_HEIGHT - 12:g}" rx="2"/>'
    # An inner <svg> cuts off what its width cannot hold, whatever the font.
    yield f'<svg x="{box.x + 12:g}" y="{box.y:g}" width="{BOX_WIDTH - 20:g}" height="{BOX_HEIGHT:g}">'
    yield f'<text class="soft" y="17"><tspan class="kind">{experience.kind.value}</tspan> {node.id[:8]}</text>'
    for number, line in enumerate(_two_lines(readable(experience.text))):
        yield f'<text y="{34 + 15 * number}">{escape(line)}</text>'
    yield f'<text class="soft state" y="{BOX_HEIGHT - 12:g}">{escape(_state_line(node))}</text>'
    yield "</svg>"
    if standing.num_passed or standing.num_failed:
        long = (BOX_WIDTH - 24) * standing.trust
        yield f'<rect class="mark" x="{box.x + 12:g}" y="{box.y + BOX_HEIGHT - 6:g}" width="{long:.1f}" height="2"/>'
    yield "</g>"


def _state(node: Node) -> str:
    standing = node.standing
    if works(standing):
        return "works"
    return "fails" if standing.warns and standing.level is not Level.RETIRED else standing.level.value


def _state_line(node: Node) -> str:
    standing = node.standing
    if standing.merged_into:
        words = f"repeats {standing.merged_into[:8]}"
    elif standing.level is Level.RETIRED:
        words = readable(standing.reason)
    else:
        words = "fails" if standing.warns else standing.level.value
    if (standing.num_passed or standing.num_failed) and not standing.merged_into:
        words += f" · {standing.num_passed} passed, {standing.num_failed} failed"
    return f"{words} · +{node.num_hidden} more" if node.num_hidden else words


def _line(line: Line, story: Story) -> Iterator[str]:
    name = "repeats" if line.relation is None else line.relation.value
    kinds = [story.by_id[id].experience.kind.value for id in (line.source, line.target)]
    words = f"{kinds[0]} {line.source[:8]} {name.replace('_', ' ')} {kinds[1]} {line.target[:8]}"
    if line.relation is Relation.RESOLVED_BY and works(story.by_id[line.target].standing):
        name += " solved"
    yield f'<path class="line {name}" d="{_curve(line)}"><title>{escape(words)}</title></path>'
    tip = line.points[-1] if line.forward else line.points[0]
    points_right = line.forward and not line.loops
    back = -7.0 if points_right else 7.0
    yield (f'<path class="arrow {name}" d="M{tip.x:g} {tip.y:.1f}l{back:g} -4v8z"/>')


def _curve(line: Line) -> str:
    first, last = line.points[0], line.points[-1]
    if line.loops:
        bulge = first.x + min(GUTTER - 8.0, 24.0 + abs(last.y - first.y) / 12)
        return f"M{first.x:g} {first.y:.1f}C{bulge:g} {first.y:.1f} {bulge:g} {last.y:.1f} {last.x:g} {last.y:.1f}"
    path = f"M{first.x:g} {first.y:.1f}"
    for number, (one, other) in enumerate(zip(line.points, line.points[1:], strict=False)):
        path += _bend(one, other) if number % 2 == 0 else f"L{other.x:g} {other.y:.1f}"
    return path


def _bend(one: Point, other: Point) -> str:
    half = (one.x + other.x) / 2
    return f"C{half:g} {one.y:.1f} {half:g} {other.y:.1f} {other.x:g} {other.y:.1f}"


def _two_lines(text: str) -> list[str]:
    """The text on one or two lines that fit the box; of a long one the beginning, and the end on the second line."""
    first = _fitting(text)
    if first == text:
        return [text]
    cut = first.rfind(" ")
    first = first[:cut] if cut > len(first) // 2 else first
    rest = text[len(first) :].lstrip()
    if _width(rest) <= _LINE_PX:
        return [first, rest]
    tail = _fitting(rest[::-1], _LINE_PX - _width("… "))[::-1]
    begin = tail.find(" ") + 1
    return [first, "… " + (tail[begin:] if begin < len(tail) // 2 else tail)]


def _fitting(text: str, room: float = _LINE_PX) -> str:
    """As much of the beginning as has room."""
    for place, char in enumerate(text):
        room -= _width(char)
        if room < 0:
            return text[:place]
    return text


def _width(text: str) -> float:
    """Pixels at 12 px, on the wide side, as no font is at hand."""
    return sum(
        12.0 if unicodedata.east_asian_width(char) in "WF" else 4.0 if char in " ijl.,:;'|!()[]" else
        10.0 if char in "mwMW@%" else 8.2 if char.isupper() else 6.9
        for char in text
    )  # fmt: skip


_KEYS = {
    "works": "green: verified",
    "fails": "red: known to fail",
    "candidate": "amber: candidate",
    "observed": "grey: only observed",
    "retired": "dashed: retired",
}


def _legend(story: Story) -> str:
    states = {_state(node) for node in story.nodes}
    words = [key for state, key in _KEYS.items() if state in states]
    if story.solved_by:
        words.append("green line: resolved by what was verified")
    if any(edge.relation is Relation.FAILED_WITH for edge in story.edges):
        words.append("red line: failed with")
    words.append("the bar below is trust")
    return "; ".join(words)
