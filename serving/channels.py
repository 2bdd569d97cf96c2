"""Channels: under which name which roster is in force, what was in force before, and whether it may change."""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from memory.ledger import LOCK_NAME, Ledger, exclusive_lock, publish_json, read_record
from memory.types import Record
from serving.roster import Roster

CURRENT, HISTORY, ROSTERS = "current.json", "history.jsonl", "rosters"
RESERVED = ("adapters", "local")
"""Names a channel may not have: the default store of adapters lies beside the channels; 'local' is no channel."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_ROSTER_ID = re.compile(r"[0-9a-f]{16}\Z")


class ChannelError(ValueError):
    """A channel is not there, or what was asked of it cannot be done; the message says what can."""


class Change(Record):
    """One entry of a channel's history."""

    kind: Literal["promote", "rollback", "freeze", "unfreeze"]
    roster: str | None = Field(default=None, description="id of the roster that is in force from here on; null: none")
    source: str = Field(default="", description="where that roster comes from")
    by: str = Field(default="", description="who did it")
    reason: str = ""
    at: float = Field(description="seconds since 1970")


class Standing(Record):
    """What a channel's history comes to."""

    line: tuple[str, ...] = Field(
        default=(), description="ids of the rosters one can go back to, oldest first; the last one is in force"
    )
    is_frozen: bool = False
    why_frozen: str = ""
    num_changes: int = Field(default=0, description="entries of the history that it rests on")

    @property
    def roster(self) -> str | None:
        """Id of the roster in force; None before the first promotion."""
        return self.line[-1] if self.line else None


class Current(Record):
    """What followers read: published whole at every change."""

    standing: Standing
    roster: Roster | None = Field(description="null: nothing was promoted yet")


def standing_after(changes: Iterable[Change]) -> Standing:
    """What a history comes to: a promotion goes on top, a rollback takes away what is above the one it names."""
    line: tuple[str, ...] = ()
    is_frozen, why, count = False, "", 0
    for change in changes:
        count += 1
        if change.kind in ("freeze", "unfreeze"):
            is_frozen, why = change.kind == "freeze", change.reason if change.kind == "freeze" else ""
        elif change.roster is not None:
            line = _line_after(line, change.kind, change.roster)
    return Standing(line=line, is_frozen=is_frozen, why_frozen=why, num_changes=count)


def _line_after(line: tuple[str, ...], kind: str, roster: str) -> tuple[str, ...]:
    if kind == "rollback" and roster in line:
        return line[: len(line) - line[::-1].index(roster)]
    return line if line and line[-1] == roster else (*line, roster)


def check_channel_name(name: str) -> str:
    """`name`, if a channel may have it. Raises ChannelError; a path never passes."""
    if not _NAME.match(name) or name in RESERVED:
        raise ChannelError(
            f"channel: expected up to 32 of a-z, 0-9, - and _ (and none of {', '.join(RESERVED)}), got {name[:80]!r}"
        )
    return name


class Channel:
    """One channel in a directory: `current.json` for followers, the history, and every roster that was in force.

    The history is the truth. A command that was killed between history and `current.json` is mended by the next one.
    """

    def __init__(self, root: Path, name: str) -> None:
        """`root`: directory of all channels. Nothing is read or written yet. Raises ChannelError for an odd name."""
        self.name = check_channel_name(name)
        self.directory = root / name

    @property
    def current_file(self) -> Path:
        """The file that changes with every change."""
        return self.directory / CURRENT

    def current(self) -> Current:
        """What is in force. Raises ChannelError if there is no such channel or its file is damaged."""
        try:
            current = read_record(self.current_file, Current)
        except FileNotFoundError:
            raise self._absent() from None
        except ValueError as error:
            raise ChannelError(str(error)) from error
        found = None if current.roster is None else current.roster.id
        if found != current.standing.roster:
            raise ChannelError(
                f"{self.current_file}: expected roster {current.standing.roster}, got {found}; restore it"
            )
        return current

    def roster(self, roster_id: str) -> Roster:
        """A roster that is or was in force here. Raises ChannelError if there is none of this id, or it was changed."""
        if not _ROSTER_ID.match(roster_id):
            raise ChannelError(f"roster: expected an id of 16 hexadecimal digits, got {roster_id[:80]!r}")
        file = self.directory / ROSTERS / f"{roster_id}.json"
        try:
            roster = read_record(file, Roster)
        except FileNotFoundError:
            raise ChannelError(
                f"{file}: expected a roster of channel {self.name!r}, found none; `evomesh channels {self.name}` "
                "lists them"
            ) from None
        except ValueError as error:
            raise ChannelError(str(error)) from error
        if roster.id != roster_id:
            raise ChannelError(f"{file}: expected roster {roster_id}, got {roster.id}; restore the file")
        return roster

    def history(self) -> tuple[Change, ...]:
        """Every change, oldest first. Raises LedgerError where the file was changed; () if there is none."""
        try:
            return _changes(Ledger(self.directory / HISTORY, readonly=True))
        except FileNotFoundError:
            return ()

    def promote(self, roster: Roster, *, reason: str = "", by: str | None = None) -> bool:
        """Puts `roster` in force. False: it already is, and nothing changed.

        Raises:
            ChannelError: the channel is frozen, or the roster was made for another one.
            AlreadyLocked: somebody else changes this channel right now.
        """
        if roster.channel != self.name:
            raise ChannelError(f"expected a roster made for channel {self.name!r}, got one for {roster.channel!r}")
        with self._writing() as ledger:
            standing = standing_after(_changes(ledger))
            self._check_not_frozen(standing)
            if standing.roster == roster.id:
                return False
            publish_json(self.directory / ROSTERS / f"{roster.id}.json", roster)
            self._append(ledger, "promote", roster, reason, by)
            return True

    def check_open(self) -> None:
        """Raises ChannelError if the channel is frozen; for work that would be in vain."""
        self._check_not_frozen(standing_after(self.history()))

    def rollback(self, to: str | None = None, *, reason: str = "", by: str | None = None) -> Roster:
        """Puts the roster before the one in force in force again, or the one of id `to`; returns it.

        A frozen channel can be rolled back too: freezing keeps new seats out, and going back lets none in.

        Raises ChannelError: there is nothing to go back to, or `to` was never in force here; AlreadyLocked.
        """
        self._check_exists()
        with self._writing() as ledger:
            standing = standing_after(_changes(ledger))
            if to is None and len(standing.line) < 2:
                raise ChannelError(f"channel {self.name!r}: expected an earlier roster to go back to, there is none")
            roster = self.roster(standing.line[-2] if to is None else to)
            if roster.id != standing.roster:
                self._append(ledger, "rollback", roster, reason, by)
            return roster

    def freeze(self, *, reason: str = "", by: str | None = None) -> bool:
        """Refuses promotions from here on. False: it was frozen already. Raises AlreadyLocked, ChannelError."""
        return self._set_frozen(True, reason, by)

    def unfreeze(self, *, reason: str = "", by: str | None = None) -> bool:
        """Allows promotions again. False: it was not frozen. Raises AlreadyLocked, ChannelError."""
        return self._set_frozen(False, reason, by)

    def _set_frozen(self, frozen: bool, reason: str, by: str | None) -> bool:
        self._check_exists()
        with self._writing() as ledger:
            if standing_after(_changes(ledger)).is_frozen == frozen:
                return False
            self._append(ledger, "freeze" if frozen else "unfreeze", None, reason, by)
            return True

    def _check_exists(self) -> None:
        """By the history: a damaged `current.json` is mended by what follows, a typing error makes no channel."""
        if not (self.directory / HISTORY).exists():
            raise self._absent()

    def _absent(self) -> ChannelError:
        others = ", ".join(list_channels(self.directory.parent)) or "none yet"
        return ChannelError(
            f"{self.directory}: expected a channel, found none (there: {others}); "
            f"make it with `evomesh promote RUN@GENERATION --channel {self.name}`"
        )

    def _check_not_frozen(self, standing: Standing) -> None:
        if standing.is_frozen:
            why = f" ({standing.why_frozen})" if standing.why_frozen else ""
            raise ChannelError(
                f"channel {self.name!r} is frozen{why}: nothing is promoted to it; "
                f"`evomesh unfreeze --channel {self.name}` first"
            )

    @contextmanager
    def _writing(self) -> Iterator[Ledger]:
        """The history, held alone; `current.json` follows it at the end, also after somebody else's kill."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.directory / LOCK_NAME):
            ledger = Ledger(self.directory / HISTORY)
            yield ledger
            self._publish(standing_after(_changes(ledger)))

    def _append(
        self,
        ledger: Ledger,
        kind: Literal["promote", "rollback", "freeze", "unfreeze"],
        roster: Roster | None,
        reason: str,
        by: str | None,
    ) -> None:
        change = Change(
            kind=kind,
            roster=None if roster is None else roster.id,
            source="" if roster is None else roster.source,
            by=_user() if by is None else by,
            reason=reason,
            at=time.time(),
        )
        ledger.append(kind, change.model_dump(mode="json"))

    def _publish(self, standing: Standing) -> None:
        try:
            if self.current().standing == standing:
                return
        except ChannelError:
            pass  # not there yet, or damaged: it is derived, so it is written anew
        roster = None if standing.roster is None else self.roster(standing.roster)
        publish_json(self.current_file, Current(standing=standing, roster=roster))


def list_channels(root: Path) -> tuple[str, ...]:
    """Names of the channels in `root`, sorted; () if it is not there."""
    return tuple(sorted(file.parent.name for file in root.glob(f"*/{CURRENT}") if _NAME.match(file.parent.name)))


def _changes(ledger: Ledger) -> tuple[Change, ...]:
    return tuple(Change.model_validate(entry.payload) for entry in ledger.entries())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        return ""
