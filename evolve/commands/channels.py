"""What `promote`, `rollback`, `freeze`, `unfreeze` and `channels` do: say what is served under which name."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.table import Table

from evolve.commands.general import OUT, print_json
from evolve.config import ConfigError, MeshConfig, load_mesh
from evolve.governance.rosters import Target, adapter_store_of, check_engines, roster_of
from memory.types import Record
from serving.adapter_share import SharedAdapters
from serving.adapters import AdapterStore
from serving.channels import Channel, Current, list_channels
from serving.config import ServingConfig
from serving.follow_state import FollowState, followers
from serving.roster import Roster


@dataclass(frozen=True)
class Where:
    """Which channel, and the configuration that says where channels and adapters are; None: the usual places."""

    channel: str
    config: Path | None = None

    def load(self) -> MeshConfig | None:
        """The configuration. Raises ConfigError."""
        return None if self.config is None else load_mesh(self.config)

    def open(self) -> Channel:
        """The channel, which need not be there yet. Raises ChannelError for an odd name."""
        return Channel(places(self.load())[0], self.channel)


@dataclass(frozen=True)
class Note:
    """What the history keeps of whoever changes a channel."""

    reason: str = ""
    by: str | None = None


class ChannelView(Record):
    """A channel as the command line tells of it."""

    channel: str
    roster: str | None
    source: str
    seats: tuple[str, ...]
    safe: str
    is_frozen: bool
    why_frozen: str
    line: tuple[str, ...]


def places(config: MeshConfig | None) -> tuple[Path, str]:
    """Directory of the channels, and path or URL of the shared adapters."""
    if config is not None:
        return config.serving.channels, config.serving.adapter_store
    fields = ServingConfig.model_fields
    return Path(fields["channels"].default), str(fields["adapter_store"].default)


def promote_command(target: str, where: Where, note: Note, *, as_json: bool) -> None:
    """`evomesh promote`."""
    config = where.load()
    channels, adapters = places(config)
    channel = Channel(channels, where.channel)
    roster = roster_of(Target.parse(target), where.channel)
    run, _, _ = roster.source.rpartition("@")
    source = adapter_store_of(Path(run))
    if config is not None:
        check_engines(roster, config, source)
    channel.check_open()
    _share(roster, source, adapters)
    is_new = channel.promote(roster, reason=note.reason, by=note.by)
    if as_json:
        print_json(_view(channel) | {"changed": is_new})
        return
    state = "is in force now" if is_new else "was in force already"
    _say(f"{roster.source} {state} as roster {roster.id} of channel {channel.name}: {_seats(roster)}.")
    _say(f"{len(roster.adapters)} adapters in {adapters}; alone answers {roster.safe}.")


def rollback_command(where: Where, to: str | None, note: Note, *, as_json: bool) -> None:
    """`evomesh rollback`."""
    channel = where.open()
    roster = channel.rollback(_full_id(channel, to), reason=note.reason, by=note.by)
    if as_json:
        print_json(_view(channel))
        return
    _say(f"Roster {roster.id} ({roster.source}) is in force in channel {channel.name}: {_seats(roster)}.")


def freeze_command(where: Where, note: Note, *, frozen: bool, as_json: bool) -> None:
    """`evomesh freeze` and `evomesh unfreeze`."""
    channel = where.open()
    change = channel.freeze if frozen else channel.unfreeze
    is_new = change(reason=note.reason, by=note.by)
    if as_json:
        print_json(_view(channel) | {"changed": is_new})
        return
    already = "" if is_new else " already"
    state = "is frozen: nothing is promoted to it until it is unfrozen" if frozen else "takes promotions"
    _say(f"Channel {channel.name} {state}{already}.")


def channels_command(name: str | None, config: Path | None, *, as_json: bool) -> None:
    """`evomesh channels`."""
    root, _ = places(Where("", config).load())
    if name is not None:
        _history(Channel(root, name), as_json=as_json)
        return
    found = [Channel(root, one) for one in list_channels(root)]
    living = followers(root)
    if as_json:
        views = [_view(channel) for channel in found]
        print_json({"directory": str(root), "channels": views, "followers": [one.model_dump() for one in living]})
        return
    if not found:
        _say(f"{root} holds no channel; make one with `evomesh promote RUN@GENERATION --channel prod`.")
        return
    table = Table("channel", "roster", "from", "seats", "alone", "state")
    for channel in found:
        view = view_of(channel.name, channel.current())
        state = f"frozen {view.why_frozen}".strip() if view.is_frozen else "open"
        table.add_row(view.channel, view.roster or "none", view.source, ", ".join(view.seats), view.safe, state)
    OUT.print(table)
    for one in living:
        _say(f"Process {one.pid} on {one.host} follows {one.state.channel}: {_standing(one.state)}")


def view_of(name: str, current: Current) -> ChannelView:
    """What stands in a channel."""
    roster, standing = current.roster, current.standing
    return ChannelView(
        channel=name,
        roster=standing.roster,
        source="" if roster is None else roster.source,
        seats=() if roster is None else tuple(seat.name for seat in roster.seats),
        safe="" if roster is None else roster.safe,
        is_frozen=standing.is_frozen,
        why_frozen=standing.why_frozen,
        line=standing.line,
    )


def _share(roster: Roster, source: AdapterStore, where: str) -> None:
    """Publishes a roster's adapters, and reads them back as a node that serves them will."""
    with tempfile.TemporaryDirectory(prefix="evomesh-") as scratch:
        shared = SharedAdapters(Path(scratch), where)
        for _, adapter in roster.adapters:
            shared.publish(adapter, source)


def _history(channel: Channel, *, as_json: bool) -> None:
    current, changes = channel.current(), channel.history()
    if as_json:
        print_json(_view(channel) | {"history": [change.model_dump(mode="json") for change in changes]})
        return
    table = Table("when", "what", "roster", "from", "by", "reason")
    for change in changes:
        when = datetime.fromtimestamp(change.at).astimezone().isoformat(sep=" ", timespec="seconds")
        table.add_row(when, change.kind, change.roster or "", change.source, change.by, change.reason)
    OUT.print(table)
    _say(f"One can go back along {' > '.join(current.standing.line) or 'nothing'}; the last one is in force.")


def _full_id(channel: Channel, start: str | None) -> str | None:
    """The id that begins so, among those that were in force. Raises ConfigError if it is none, or several."""
    if start is None:
        return None
    known = dict.fromkeys(change.roster for change in channel.history() if change.roster is not None)
    found = [one for one in known if one.startswith(start)] if start else []
    if len(found) != 1:
        raise ConfigError(f"--to: expected one of {', '.join(known) or 'no roster'}, got {start!r}")
    return found[0]


def _view(channel: Channel) -> dict[str, object]:
    return view_of(channel.name, channel.current()).model_dump(mode="json")


def _standing(state: FollowState) -> str:
    behind = "" if state.roster == state.wanted else f" instead of {state.wanted}"
    return f"roster {state.roster or 'none yet'}{behind}." + (f" {state.error}" if state.error else "")


def _seats(roster: Roster) -> str:
    return ", ".join(f"{seat.name} ({seat.engine}{'' if not seat.adapters else ' + adapter'})" for seat in roster.seats)


def _say(text: str) -> None:
    OUT.print(text, markup=False, highlight=False)
