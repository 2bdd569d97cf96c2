"""What the `keys` commands do: make, list and revoke the keys of a door."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from rich.table import Table
from rich.text import Text

from evolve.commands.general import OUT, print_json
from evolve.config import load_mesh
from serving.endpoint.keys import KeyRecord, KeyRing, KeysError, Period, Quota

KEYS = "keys.json"
DAY_S = 86_400.0


def create_command(
    config: Path,
    team: str,
    project: str,
    quota: tuple[int | None, str],
    *,
    days: float | None,
    note: str,
    as_json: bool,
) -> None:
    """`evomesh keys create`; `quota`: tokens (None: no limit) and the period. The key is printed once."""
    period = _period(quota[1])
    limit = None if quota[0] is None else Quota(tokens=quota[0], per=period)
    lives_s = None if days is None else days * DAY_S
    state = load_mesh(config).endpoint.state
    state.mkdir(mode=0o700, parents=True, exist_ok=True)  # as the door makes it, which may come later
    record, secret = KeyRing(state / KEYS).create(team, limit, project=project, note=note, lives_s=lives_s)
    if as_json:
        print_json({"key": secret, **_as_data(record)})
        return
    # A key is one word: it must neither be broken into lines nor read as markup.
    OUT.print(secret, soft_wrap=True, markup=False, highlight=False)
    _say(
        f"Key {record.id} for {record.team}/{record.project}, {_quota_of(record)}, {_end_of(record)}. Keep it now: it "
        "is stored as a hash only and cannot be shown again."
    )


def list_command(config: Path, *, as_json: bool) -> None:
    """`evomesh keys list`."""
    keys = _ring(config).list()
    if as_json:
        print_json([_as_data(key) for key in keys])
        return
    if keys:
        OUT.print(_table(keys))
    _say(f"{sum(key.opens(_now()) for key in keys)} of {len(keys)} keys open the door")


def revoke_command(config: Path, key_id: str, *, as_json: bool) -> None:
    """`evomesh keys revoke`; a running door follows from the next request on."""
    record = _ring(config).revoke(key_id)
    if as_json:
        print_json(_as_data(record))
        return
    _say(f"Key {record.id} for {record.team}/{record.project} opens nothing any more")


def _ring(config: Path) -> KeyRing:
    return KeyRing(load_mesh(config).endpoint.state / KEYS)


def _period(name: str) -> Period:
    if name in get_args(Period):
        return cast(Period, name)
    raise KeysError(f"--per: expected {', '.join(get_args(Period))}, got {name!r}")


def _as_data(record: KeyRecord) -> dict[str, object]:
    """Everything but the hash: nobody who lists keys needs it."""
    return {**record.model_dump(mode="json", exclude={"digest"}), "opens": record.opens(_now())}


def _table(keys: tuple[KeyRecord, ...]) -> Table:
    table = Table("id", "team", "project", "quota", "made", "state", "note")
    for key in keys:
        cells = (key.id, key.team, key.project, _quota_of(key), _date(key.created_at), _end_of(key), key.note)
        # As text, not as markup: a note may hold brackets.
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _quota_of(record: KeyRecord) -> str:
    return "no quota" if record.quota is None else f"{record.quota.tokens} tokens per {record.quota.per}"


def _end_of(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f"revoked {_date(record.revoked_at)}"
    if record.expires_at is None:
        return "open"
    return f"{'open until' if record.opens(_now()) else 'expired'} {_date(record.expires_at)}"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _say(text: str) -> None:
    OUT.print(text, soft_wrap=True, markup=False, highlight=False)
