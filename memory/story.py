"""The story around an experience: what came before and after it, what solved it, what failed, what it repeats."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import apsw
from pydantic import Field

from memory import rows
from memory.database import StoreError, fetch
from memory.graph import FORWARD
from memory.store import Memory
from memory.types import Edge, Evidence, Experience, Kind, Level, Record, Relation, Standing
from memory.vectors import snapshot

MAX_BRANCH = 12
"""Most neighbours that a story takes in from one experience, in each direction: an error may belong to thousands."""

MAX_NODES = 500

MAX_TREE_CHARS = 100


class Node(Record):
    """One experience of a story."""

    id: str
    experience: Experience
    standing: Standing
    checks: tuple[Evidence, ...] = Field(default=(), description="in order, without what was rolled back")
    sources: tuple[str, ...] = ()
    distance: int = Field(description="edges and merges between it and the experience that was asked about")
    num_hidden: int = Field(default=0, description="edges and merges that lead from it out of the story")


class Story(Record):
    """A part of the graph of experiences, as data."""

    id: str = Field(description="the experience that was asked about")
    nodes: tuple[Node, ...] = Field(description="nearest to it first; it is the first")
    edges: tuple[Edge, ...] = Field(description="all edges between the nodes, in the order of writing")
    merges: tuple[tuple[str, str], ...] = Field(default=(), description="(id of the duplicate, id of what it repeats)")
    roots: tuple[str, ...] = Field(description="where the story begins; every node can be reached from one of these")

    def node(self, id: str) -> Node:
        """The node with this id. Raises KeyError."""
        return self.by_id[id]

    @property
    def by_id(self) -> dict[str, Node]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    @property
    def solved_by(self) -> tuple[str, ...]:
        """What resolved something here and is believed to work, best trusted first."""
        found = {edge.target for edge in self.edges if edge.relation is Relation.RESOLVED_BY}
        nodes = [node for node in self.nodes if node.id in found and works(node.standing)]
        return tuple(node.id for node in sorted(nodes, key=lambda node: -node.standing.trust))

    @property
    def failed(self) -> tuple[str, ...]:
        """What was tried and failed: attempts and solutions that met an error, or that checks speak against."""
        met = {edge.source for edge in self.edges if edge.relation is Relation.FAILED_WITH}
        tried = (Kind.ATTEMPT, Kind.SOLUTION)
        return tuple(
            node.id for node in self.nodes if node.experience.kind in tried and (node.id in met or node.standing.warns)
        )

    @property
    def followed(self) -> tuple[str, ...]:
        """What came of the experience that was asked about, along the way of a story, nearest first."""
        reached, frontier = {self.id}, {self.id}
        while frontier:
            frontier = {e.target for e in self.edges if e.source in frontier and e.relation in FORWARD} - reached
            reached |= frontier
        return tuple(node.id for node in self.nodes if node.id in reached - {self.id})

    @property
    def is_cut(self) -> bool:
        """True: the graph goes on beyond these nodes."""
        return any(node.num_hidden for node in self.nodes)


def works(standing: Standing) -> bool:
    """Whether checks say that it works."""
    return standing.level is Level.VERIFIED and not standing.warns


def story(memory: Memory, id: str, max_nodes: int = 60) -> Story:
    """At most `max_nodes` experiences around one, nearest first, along edges in both directions and along merges.

    From an experience with very many neighbours the first dozen in each direction are taken; `num_hidden` counts what
    is left out. Raises StoreError for an unknown id, ValueError for `max_nodes` out of 1 to 500.
    """
    if not 1 <= max_nodes <= MAX_NODES:
        raise ValueError(f"max_nodes: expected 1 to {MAX_NODES}, got {max_nodes}")
    with memory.reading() as connection, snapshot(connection):
        if not rows.known_ids(connection, [id]):
            raise StoreError(f"{memory.directory}: expected the id of a stored experience, got {id!r}; search for it")
        distances = _around(connection, id, max_nodes)
        edges = _edges_between(connection, distances)
        merges = _merges_between(connection, distances)
        nodes = tuple(_nodes(connection, distances, edges, merges))
    return Story(id=id, nodes=nodes, edges=edges, merges=merges, roots=_roots(nodes, edges, merges))


def most_connected(memory: Memory, namespaces: Sequence[str]) -> str | None:
    """The id of the experience most worth telling the story of: most used, then with most edges, then the oldest.

    None where nothing that is not retired has an edge. Raises ValueError for a namespace that names no team.
    """
    sql = (
        "WITH ends (id) AS (SELECT source FROM edges WHERE voided_by IS NULL"
        " UNION ALL SELECT target FROM edges WHERE voided_by IS NULL),"
        " degrees (id, degree) AS (SELECT id, count(*) FROM ends GROUP BY id)"
        " SELECT id FROM degrees JOIN entries USING (id) JOIN standings ON entry = entries.seq"
        " WHERE level <> 'retired' AND standings.namespace IN (SELECT value FROM json_each(?))"
        " ORDER BY json_extract(standing, '$.num_uses') DESC, degree DESC, entries.seq LIMIT 1"
    )
    with memory.reading() as connection:
        numbers = rows.namespaces_like(connection, namespaces)
        found: str | None = connection.execute(sql, (json.dumps(numbers),)).get
    return found


def as_text(story: Story) -> str:
    """The story as a tree to read: what was asked about is marked, each node says how far it is trusted and why."""
    return "\n".join([*_tree(story), *_summary(story)])


def readable(text: str) -> str:
    """One line of text in which nothing can hide or reorder what stands beside it."""
    line = " ".join(text.split())
    return "".join("·" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn"} else char for char in line)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters; what is left out is the middle, for questions come first and answers last."""
    if len(text) <= limit:
        return text
    tail = limit * 2 // 5
    return f"{text[: limit - tail - 3].rstrip()} … {text[-tail:].lstrip()}"


def verdict_of(node: Node) -> str:
    """How far a node is trusted, in words: 'verified, trust 0.79, 3 passed 0 failed'."""
    standing = node.standing
    words = [standing.level.value + (" as failing" if standing.warns else "")]
    if standing.level is Level.RETIRED and standing.reason:
        words[0] = readable(_shortened_ids(standing.reason))
    if standing.num_passed or standing.num_failed:
        words.append(f"trust {standing.trust:.2f}")
        words.append(f"{standing.num_passed} passed {standing.num_failed} failed")
    if standing.num_uses:
        words.append(f"used {standing.num_uses} times, gain {standing.gain:+.2f}")
    return ", ".join(words)


def _shortened_ids(reason: str) -> str:
    return " ".join(word[:8] if len(word) == 64 else word for word in reason.split())


def _around(connection: apsw.Connection, id: str, max_nodes: int) -> dict[str, int]:
    """Ids and their distances, nearest first."""
    distances = {id: 0}
    frontier = [id]
    while frontier and len(distances) < max_nodes:
        reached = dict.fromkeys(other for one in frontier for other in _neighbours(connection, one))
        frontier = [other for other in reached if other not in distances][: max_nodes - len(distances)]
        distances.update(dict.fromkeys(frontier, distances[next(reversed(distances))] + 1))
    return distances


def _neighbours(connection: apsw.Connection, id: str) -> list[str]:
    limit = f" LIMIT {MAX_BRANCH}"
    found: list[str] = []
    for sql in (
        "SELECT target FROM edges WHERE source = ? AND voided_by IS NULL ORDER BY seq",
        "SELECT source FROM edges WHERE target = ? AND voided_by IS NULL ORDER BY seq",
        "SELECT other.id FROM entries AS one JOIN standings ON entry = one.seq"
        " JOIN entries AS other ON other.seq = merged_into WHERE one.id = ?",
        "SELECT other.id FROM entries AS one JOIN standings ON merged_into = one.seq"
        " JOIN entries AS other ON other.seq = entry WHERE one.id = ? ORDER BY other.seq",
    ):
        found += [other for (other,) in fetch(connection, sql + limit, (id,))]
    return found


def _edges_between(connection: apsw.Connection, ids: dict[str, int]) -> tuple[Edge, ...]:
    sql = (
        "SELECT source, relation, target FROM edges WHERE source IN (SELECT value FROM json_each(?1))"
        " AND target IN (SELECT value FROM json_each(?1)) AND voided_by IS NULL ORDER BY seq"
    )
    return tuple(
        Edge(source=source, relation=Relation(relation), target=target)
        for source, relation, target in connection.execute(sql, (json.dumps(list(ids)),))
    )


def _merges_between(connection: apsw.Connection, ids: dict[str, int]) -> tuple[tuple[str, str], ...]:
    sql = (
        "SELECT one.id, other.id FROM entries AS one JOIN standings ON entry = one.seq"
        " JOIN entries AS other ON other.seq = merged_into WHERE one.id IN (SELECT value FROM json_each(?1))"
        " AND other.id IN (SELECT value FROM json_each(?1)) ORDER BY one.seq"
    )
    return tuple(connection.execute(sql, (json.dumps(list(ids)),)))


def _nodes(
    connection: apsw.Connection,
    distances: dict[str, int],
    edges: Sequence[Edge],
    merges: Sequence[tuple[str, str]],
) -> Iterator[Node]:
    found = rows.nodes_by_id(connection, list(distances))
    standings = rows.standings_of(connection, [row for row, _ in found.values()])
    shown = [(edge.source, edge.target) for edge in edges] + list(merges)
    for id, distance in distances.items():
        row, experience = found[id]
        sql = "SELECT verifier, verdict, digest FROM checks WHERE entry = ? AND voided_by IS NULL ORDER BY event, rowid"
        checks = fetch(connection, sql, (row,))
        sql = "SELECT DISTINCT source FROM observations WHERE entry = ? AND voided_by IS NULL AND source <> ''"
        sources = sorted(source for (source,) in fetch(connection, sql, (row,)))
        num_shown = sum((one == id) + (other == id) for one, other in shown)
        yield Node(
            id=id,
            experience=experience,
            standing=standings[row],
            checks=tuple(Evidence(verifier=name, verdict=verdict, digest=digest) for name, verdict, digest in checks),
            sources=tuple(sources),
            distance=distance,
            num_hidden=_degree(connection, id, row) - num_shown,
        )


def _degree(connection: apsw.Connection, id: str, row: int) -> int:
    sql = (
        "SELECT (SELECT count(*) FROM edges WHERE source = ?1 AND voided_by IS NULL)"
        " + (SELECT count(*) FROM edges WHERE target = ?1 AND voided_by IS NULL)"
        " + (SELECT count(*) FROM standings WHERE merged_into = ?2)"
        " + (SELECT merged_into IS NOT NULL FROM standings WHERE entry = ?2)"
    )
    found: Any = connection.execute(sql, (id, row)).get
    return int(found)


def _roots(nodes: Sequence[Node], edges: Sequence[Edge], merges: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Problems first, then what nothing leads to, then whatever is in a circle, until every node is reached."""
    below = _below(edges, merges)
    led_to = {child for children in below.values() for child, _ in children}
    order = list(Kind)
    candidates = sorted(nodes, key=lambda node: (node.id in led_to, order.index(node.experience.kind), node.distance))
    roots: list[str] = []
    reached: set[str] = set()
    for node in candidates:
        if node.id not in reached:
            roots.append(node.id)
            frontier = [node.id]
            while frontier:
                one = frontier.pop()
                if one not in reached:
                    reached.add(one)
                    frontier += [child for child, _ in below.get(one, ())]
    return tuple(roots)


_Below = dict[str, list[tuple[str, str]]]


def _below(edges: Sequence[Edge], merges: Sequence[tuple[str, str]]) -> _Below:
    """What stands below each node in the tree, and the words that say how."""
    below: _Below = {}
    for edge in edges:
        below.setdefault(edge.source, []).append((edge.target, edge.relation.value.replace("_", " ")))
    for duplicate, into in merges:
        below.setdefault(into, []).append((duplicate, "repeated by"))
    return below


def _tree(story: Story) -> Iterator[str]:
    below, nodes = _below(story.edges, story.merges), story.by_id
    told: set[str] = set()

    def tell(id: str, lead: str, indent: str) -> Iterator[str]:
        node = nodes[id]
        yield lead + _title(node, is_asked=id == story.id) + (" (told above)" if id in told else "")
        if id in told:
            return
        told.add(id)
        children = below.get(id, [])
        bar = f"{indent}{'│' if children else ' '}  "
        yield from (bar + line for line in _details(node))
        for place, (child, how) in enumerate(children, start=1):
            is_last = place == len(children)
            yield from tell(
                child, f"{indent}{'└' if is_last else '├'}─ {how}: ", indent + ("   " if is_last else "│  ")
            )

    for root in story.roots:
        yield from tell(root, "", "")


def _title(node: Node, *, is_asked: bool) -> str:
    return f"{node.experience.kind.value} {node.id[:8]} [{verdict_of(node)}]" + (" <<<" if is_asked else "")


def _details(node: Node) -> Iterator[str]:
    text = readable(node.experience.text)
    yield shortened(text, MAX_TREE_CHARS)
    for check in node.checks:
        yield f"check: {readable(check.verifier)} {check.verdict} ({readable(check.digest)[:12] or 'no evidence'})"
    if node.num_hidden:
        yield f"and {node.num_hidden} more, not shown here"


def _summary(story: Story) -> Iterator[str]:
    for name, ids in (
        ("Solved by", story.solved_by),
        ("Tried and failed", story.failed),
        ("What followed", story.followed),
    ):
        if ids:
            yield f"{name}: {', '.join(id[:8] for id in ids)}"
