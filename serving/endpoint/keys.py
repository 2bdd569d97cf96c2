"""Who may enter: keys that are bound to a team's namespace, kept as hashes, followed while the door is open."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from memory.ledger import exclusive_lock, publish_json, read_record
from memory.types import Namespace, Record

Period = Literal["hour", "day", "month"]

PREFIX = "em"
_SECRET = re.compile(r"em_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_SECRET_BYTES = 32
_NOBODY = "0" * 64
"""What an unknown key is compared with, so that it takes the time of a known one."""

TeamName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class KeysError(RuntimeError):
    """The file of keys cannot be read, or there is no such key."""


class KeyRefused(RuntimeError):
    """A request without a key that opens the door. The message never holds any of what was sent."""


class Quota(Record):
    """How much a key may spend."""

    tokens: int = Field(ge=1, description="prompt and output tokens of all internal calls together")
    per: Period = Field(default="day", description="calendar hour, day or month, in UTC")


class KeyRecord(Record):
    """What is kept of a key; the key itself is shown once, when it is made, and is nowhere afterwards."""

    id: str = Field(pattern=r"^[0-9a-f]{12}$", description="names the key in logs and listings; no secret")
    team: TeamName = Field(description="whose text it is: served traffic stays within this team")
    project: TeamName = Field(default="default", description="second part of the namespace")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of the whole key")
    quota: Quota | None = Field(default=None, description="null: no limit")
    note: str = Field(default="", max_length=200, description="what it is for, from whoever made it")
    created_at: float = Field(description="seconds since 1970")
    expires_at: float | None = Field(default=None, description="seconds since 1970; null: never")
    revoked_at: float | None = Field(default=None, description="seconds since 1970; null: it is not")

    def opens(self, now: float) -> bool:
        """Whether the key is good at `now`, in seconds since 1970."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def caller(self) -> Caller:
        """Whoever comes with this key."""
        return Caller(key_id=self.id, team=self.team, project=self.project, quota=self.quota)


class Caller(Record):
    """Who a request is from; what it leaves behind belongs to this team and project."""

    key_id: str = Field(default="", description="empty: came without a key")
    team: str
    project: str = "default"
    quota: Quota | None = None

    def namespace(self, run: str) -> Namespace:
        """Where memory keeps what this caller's requests came to."""
        return Namespace(team=self.team, project=self.project, run=run)


ANONYMOUS = Caller(team="local")
"""Whoever comes without a key to a door on loopback."""


class KeyFile(Record):
    """All keys that were ever made here."""

    keys: tuple[KeyRecord, ...] = ()


class KeyRing:
    """The keys in one published file. Reading follows the file; `create` and `revoke` may run in another process.

    A file that cannot be read any more leaves the keys as they were, and `fault` says why: a slip of an editor must
    not lock three teams out. A file that is gone means that there are no keys.

    sha256 is enough, and no slow hash is needed: what is hashed are 256 random bits, which nobody can guess.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Raises KeysError if the file is there and cannot be read."""
        self._path = path
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, KeyRecord] = {}
        self.fault: str | None = None
        self._follow()
        if self.fault is not None:
            raise KeysError(self.fault)

    def create(
        self,
        team: str,
        quota: Quota | None = None,
        *,
        project: str = "default",
        note: str = "",
        lives_s: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key: what is kept of it, and the key itself, which cannot be had again.

        `lives_s`: seconds until it expires; None: it does not. Raises AlreadyLocked while another process changes the
        keys, KeysError for an odd name, for the team of those who come without a key, or for an unreadable file.
        """
        if team == ANONYMOUS.team:
            raise KeysError(f"team {team!r} is whoever comes without a key to a door on loopback; choose another name")
        now = self._clock()
        key_id = secrets.token_hex(6)
        secret = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        try:
            record = KeyRecord(
                id=key_id,
                team=team,
                project=project,
                digest=_digest(secret),
                quota=quota,
                note=note,
                created_at=now,
                expires_at=None if lives_s is None else now + lives_s,
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise KeysError(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
        self._change(lambda keys: (*keys, record))
        return record, secret

    def revoke(self, key_id: str) -> KeyRecord:
        """The key opens nothing any more, from the next request on; a second time changes nothing.

        `key_id` may be the beginning of an id, or the whole key. Raises KeysError if it names no key, or several.
        """
        # Whoever finds a key in a public place has the key and not its id; no message may repeat it.
        key_id = key_id.removeprefix(f"{PREFIX}_").partition("_")[0][:12]
        found = [key for key in self.list() if key.id.startswith(key_id)]
        if len(found) != 1 or not key_id:
            known = ", ".join(key.id for key in found or self.list()[:8]) or "none"
            raise KeysError(f"expected the id of one key, got {key_id!r}, which fits {len(found)}; there are: {known}")
        if found[0].revoked_at is not None:
            return found[0]
        revoked = found[0].model_copy(update={"revoked_at": self._clock()})
        self._change(lambda keys: tuple(revoked if key.id == revoked.id else key for key in keys))
        return revoked

    def list(self) -> tuple[KeyRecord, ...]:
        """All keys, in the order they were made, the revoked and expired ones too."""
        self._follow()
        return tuple(self._keys.values())

    def find(self, secret: str) -> KeyRecord | None:
        """The key that `secret` is, if it opens the door now; else None. Takes the same time for every wrong one."""
        self._follow()
        shape = _SECRET.fullmatch(secret)
        record = self._keys.get(shape.group(1)) if shape else None
        is_same = hmac.compare_digest(_digest(secret), record.digest if record is not None else _NOBODY)
        return record if record is not None and is_same and record.opens(self._clock()) else None

    def admit(self, authorization: str | None, *, needs_key: bool) -> Caller:
        """Who comes with this Authorization header (None: without one).

        Where no key is needed, a word that is no key of ours counts as none: many clients must send something.
        Raises KeyRefused for a missing, unknown, expired or revoked key.
        """
        scheme, _, said = (authorization or "").strip().partition(" ")
        secret = said.strip() if scheme.lower() == "bearer" else ""
        if not needs_key and not secret.startswith(f"{PREFIX}_"):
            return ANONYMOUS
        record = self.find(secret)
        if record is None:
            raise KeyRefused(MISSING if not secret else UNKNOWN)
        return record.caller

    def _follow(self) -> None:
        """Reads the file anew if it is another one than last time; one `stat` if it is not."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self._seen, self._keys, self.fault = None, {}, None
            return
        seen = (state.st_ino, state.st_mtime_ns, state.st_size)
        if seen == self._seen:
            return
        try:
            self._keys = {key.id: key for key in read_record(self._path, KeyFile).keys}
            self.fault = None
        except FileNotFoundError:
            return
        except (ValueError, OSError) as error:
            self.fault = f"{error}; the keys known before stay in force"
        self._seen = seen

    def _change(self, change: Callable[[tuple[KeyRecord, ...]], tuple[KeyRecord, ...]]) -> None:
        with exclusive_lock(self._path.with_name(f"{self._path.name}.lock")):
            self._follow()
            if self.fault is not None:
                raise KeysError(self.fault)
            publish_json(self._path, KeyFile(keys=change(tuple(self._keys.values()))))
        self._follow()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


MISSING = "expected a key, got none; send 'Authorization: Bearer KEY' with a key that `evomesh keys create` made"
UNKNOWN = "the key is unknown, expired or revoked; ask whoever runs this door for another"
