"""One round of talk: every member reads the others, objects, answers again, and accounts for a changed mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mesh.account import account, unchanged
from mesh.calls import as_asked
from mesh.critique import critique
from mesh.digest import digest, digest_messages
from mesh.equivalence import canonical, same_answer
from mesh.limits import Talk
from mesh.peers import Group, excerpt, groups_for, pack, reading_of, shown_texts, strongest_opponent
from mesh.revise import peer_parts, revise, revision_messages
from mesh.seeds import derive_seed
from mesh.table import TEMPLATE_TOKENS, Table
from mesh.types import Critique, Member, Message, Proposal, Reading, Shown


@dataclass(frozen=True)
class Round:
    """What one round of talk knows: its number, who held what before it, and how members are shown to each other."""

    number: int
    held: Mapping[str, Proposal]
    config: Talk


async def read(table: Table, talk: Round) -> dict[str, Reading]:
    """Deal every present member its own anonymous view of the others, cut to its own window, never in mid-answer."""
    digests = await _digests(table, talk)

    async def deal(member: Member) -> Reading:
        groups = groups_for(
            member.name, talk.number, talk.held, table.equality, derive_seed(table.seed, table.task.id, "read"),
            max_chars=talk.config.peer_max_chars, digests=digests,
        )  # fmt: skip
        near = groups[: talk.config.max_peers_shown]
        room, sizes = await _room(table, talk, member, near)
        return reading_of(member.name, talk.number, groups, [*pack(sizes, room), *[None] * (len(groups) - len(near))])

    readings = await table.hear("revise", talk.number, table.seats("deep"), 0, deal, calls_each=0)
    table.readings += readings.values()
    return readings


async def criticise(table: Table, talk: Round, readings: Mapping[str, Reading]) -> dict[str, list[str]]:
    """Who holds an answer objects to the strongest one against it. Valid objections by canonical target."""
    seen = {
        name: strongest_opponent(reading, talk.held.get(name), table.equality) for name, reading in readings.items()
    }
    against = {name: opponent for name, opponent in seen.items() if opponent is not None}
    sampling = table.config.sampling.model_copy(update={"max_tokens": talk.config.talk_max_tokens})

    async def ask(member: Member) -> Critique:
        own = excerpt(talk.held[member.name], talk.config.peer_max_chars)
        return await critique(table.caller, member, talk.number, against[member.name], own, sampling)

    seats = [member for member in table.seats("reflection") if member.name in against]
    said = await table.hear("critique", talk.number, seats, talk.config.talk_max_tokens, ask)
    table.critiques += said.values()
    objections: dict[str, list[str]] = {}
    for made in said.values():
        if made.valid:
            objections.setdefault(canonical(made.target_answer, table.equality), []).append(made.text)
    return objections


async def answer_again(
    table: Table, talk: Round, readings: Mapping[str, Reading], objections: Mapping[str, Sequence[str]], *,
    account_for_changes: bool,
) -> None:  # fmt: skip
    """Everybody answers again, having read the others and what was said against its own answer.

    With `account_for_changes`, a member that leaves a readable answer for another must name the step that was wrong,
    or it keeps the one it had.
    """

    async def ask(member: Member) -> Proposal:
        own = talk.held.get(member.name)
        answer = None if own is None else own.answer
        heard = [] if answer is None else list(objections.get(canonical(answer, table.equality), ()))
        text = "" if own is None or answer is None else excerpt(own, talk.config.peer_max_chars)
        heard = heard[: talk.config.max_peers_shown]
        return await revise(table.caller, member, readings[member.name], text, heard, table.config.sampling)

    seats = [member for member in table.seats("deep") if member.name in readings]
    said = await table.hear("revise", talk.number, seats, table.config.sampling.max_tokens, ask)
    if account_for_changes:
        said |= await _accounts(table, talk, said)
    await table.add(list(said.values()))


async def _accounts(table: Table, talk: Round, said: Mapping[str, Proposal]) -> dict[str, Proposal]:
    def changed(member: Member) -> bool:
        before, after = talk.held.get(member.name), said.get(member.name)
        if before is None or before.answer is None or after is None or after.answer is None:
            return False
        return not same_answer(before.answer, after.answer, table.equality)

    async def ask(member: Member) -> Proposal:
        return await account(table.caller, member, talk.held[member.name], said[member.name])

    seats = [member for member in table.present if changed(member)]
    accounted = await table.hear("account", talk.number, seats, 1, ask)
    # Without the budget or the engine for an account, a change is not accounted for, so it does not count.
    unheard = [member.name for member in seats if member.name not in accounted]
    return accounted | {name: unchanged(talk.held[name], said[name]) for name in unheard}


async def _digests(table: Table, talk: Round) -> dict[str, str]:
    """Digests by author of the texts that are too long to be shown whole."""
    if not talk.config.digest:
        return {}
    limit = talk.config.peer_max_chars
    long = {name for name, own in talk.held.items() if own.answer is not None and not shown_texts(own, limit, "")[0]}
    seats = [member for member in table.seats("extraction") if member.name in long]
    sampling = table.config.sampling.model_copy(update={"max_tokens": talk.config.talk_max_tokens})

    async def ask(member: Member) -> str:
        own = talk.held[member.name]
        if not await table.fits(member, digest_messages(table.task, own.text, 0), sampling.max_tokens):
            return ""
        return await digest(table.caller, member, own, talk.number, sampling)

    return await table.hear("digest", talk.number, seats, talk.config.talk_max_tokens, ask)


async def _room(
    table: Table, talk: Round, member: Member, groups: Sequence[Group]
) -> tuple[int, list[list[int | None]]]:
    """The reader's room for peers and what each text takes of it: in bytes where all fits even so, else in its tokens.

    A token is at least one byte, so what fits in bytes fits in tokens, and nobody has to be asked.
    """
    own = talk.held.get(member.name)
    text = "" if own is None or own.answer is None else excerpt(own, talk.config.peer_max_chars)
    blank = Reading(reader=member.name, round=talk.number, shown=())
    asked = revision_messages(table.task, blank, text, [""] * talk.config.max_peers_shown, 0)
    base = as_asked(member, table.task, asked)
    objections = talk.config.max_peers_shown * talk.config.talk_max_tokens
    window = table.profiles[member.engine].max_model_len
    room = window - table.config.sampling.max_tokens - objections - TEMPLATE_TOKENS
    turns = [_turns(group) for group in groups]
    in_bytes = [[None if turn is None else len(turn.text.encode()) for turn in levels] for levels in turns]
    base_bytes = sum(len(message.text.encode()) for message in base)
    if base_bytes + sum(max(size or 0 for size in sizes) for sizes in in_bytes) <= room:
        return room, in_bytes
    count = table.count_tokens
    room -= await count(member, base)
    return room, [[None if turn is None else await count(member, [turn]) for turn in levels] for levels in turns]


def _turns(group: Group) -> list[Message | None]:
    """The group as it stands in a prompt at each level, line and fence included; None: this level is not to be had."""
    found: list[Message | None] = []
    for level, text in enumerate(group.texts):
        shown = Shown(label="A", answer=group.answer, author="", supporters=group.supporters, text=text)
        is_count = level == len(group.texts) - 1
        found.append(Message(role="user", parts=peer_parts(shown, MARK)) if text or is_count else None)
    return found


MARK = "0f1e2d"
"""Takes as many tokens as a mark may: hardly a tokenizer has a token for two of these in a row."""
