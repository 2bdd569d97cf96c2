"""Channels: what is in force, going back, freezing, kills in between, and names that are paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.ledger import AlreadyLocked, LedgerError, exclusive_lock
from mesh.types import Member
from serving.channels import Change, Channel, ChannelError, Standing, list_channels, standing_after
from serving.roster import Roster


def roster(name: str, channel: str = "prod") -> Roster:
    seat = Member(name=name, engine=name, family=name)
    return Roster(channel=channel, seats=(seat,), safe=name, source=f"runs/{name}@0")


def promoted(root: Path, *names: str) -> Channel:
    channel = Channel(root, "prod")
    for name in names:
        assert channel.promote(roster(name), by="eve")
    return channel


def in_force(channel: Channel) -> str:
    found = channel.current().roster
    assert found is not None
    return found.safe


def test_the_last_promotion_is_in_force_and_the_history_says_who_and_why(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben")
    channel.promote(roster("cai"), reason="gate passed", by="mia")
    assert in_force(channel) == "cai"
    last = channel.history()[-1]
    assert (last.kind, last.roster, last.source, last.by) == ("promote", roster("cai").id, "runs/cai@0", "mia")
    assert last.reason == "gate passed"
    assert list_channels(tmp_path) == ("prod",)


def test_promoting_what_is_in_force_changes_nothing(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada")
    before = channel.current_file.stat().st_mtime_ns
    assert not channel.promote(roster("ada"))
    assert (len(channel.history()), channel.current_file.stat().st_mtime_ns) == (1, before)


def test_rolling_back_twice_goes_back_twice(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben", "cai")
    assert channel.rollback().safe == "ben"
    assert channel.rollback().safe == "ada"
    with pytest.raises(ChannelError, match="there is none"):
        channel.rollback()
    assert in_force(channel) == "ada"


def test_a_promotion_after_a_rollback_stands_on_what_was_gone_back_to(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben")
    channel.rollback()
    channel.promote(roster("cai"))
    assert channel.rollback().safe == "ada"


def test_going_back_to_a_named_roster_also_brings_back_what_was_rolled_back(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben", "cai")
    assert channel.rollback(roster("ada").id).safe == "ada"
    assert channel.rollback(roster("cai").id).safe == "cai"
    with pytest.raises(ChannelError, match="found none"):
        channel.rollback(roster("zoe").id)
    with pytest.raises(ChannelError, match="16 hexadecimal"):
        channel.rollback("../../etc/passwd")


def test_a_frozen_channel_takes_no_promotion_but_can_go_back(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben")
    assert channel.freeze(reason="audit week")
    assert not channel.freeze()
    with pytest.raises(ChannelError, match=r"frozen \(audit week\).*unfreeze"):
        channel.promote(roster("cai"))
    assert channel.rollback().safe == "ada"
    assert channel.current().standing.is_frozen
    assert channel.unfreeze()
    assert channel.promote(roster("cai"))


def test_a_typing_error_makes_no_channel(tmp_path: Path) -> None:
    promoted(tmp_path, "ada")
    for act in (
        Channel(tmp_path, "prdo").freeze,
        Channel(tmp_path, "prdo").rollback,
        Channel(tmp_path, "prdo").current,
    ):
        with pytest.raises(ChannelError, match="there: prod"):
            act()
    assert not (tmp_path / "prdo").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../prod", "a/b", "/etc", "Prod", "a" * 33, "adapters", "local", "a\n"]
)
def test_names_that_are_paths_or_taken_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ChannelError, match="channel: expected"):
        Channel(tmp_path, name)


def test_a_roster_made_for_another_channel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="made for channel 'prod'"):
        Channel(tmp_path, "prod").promote(roster("ada", channel="test"))


def test_a_kill_between_history_and_publishing_is_mended_by_the_next_command(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada")
    old = channel.current_file.read_bytes()
    channel.promote(roster("ben"))
    channel.current_file.write_bytes(old)
    assert in_force(channel) == "ada"
    assert not channel.promote(roster("ben"))  # the history has it
    assert in_force(channel) == "ben"


def test_a_damaged_current_file_is_said_as_such_and_mended_by_the_next_change(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben")
    data = json.loads(channel.current_file.read_text())
    data["roster"]["source"], data["roster"]["seats"][0]["family"] = "x", "forged"
    channel.current_file.write_text(json.dumps(data))
    with pytest.raises(ChannelError, match="expected roster"):
        channel.current()
    channel.current_file.write_text("{")
    with pytest.raises(ChannelError, match="expected JSON"):
        channel.current()
    assert not channel.promote(roster("ben"))
    assert in_force(channel) == "ben"
    channel.current_file.write_text("{")
    assert channel.rollback().safe == in_force(channel) == "ada"


def test_a_changed_roster_is_not_gone_back_to(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben")
    file = channel.directory / "rosters" / f"{roster('ada').id}.json"
    file.write_text(file.read_text().replace('"family": "ada"', '"family": "eve"'))
    with pytest.raises(ChannelError, match="restore the file"):
        channel.rollback()
    assert in_force(channel) == "ben"


def test_a_changed_history_stops_every_change(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada", "ben")
    file = channel.directory / "history.jsonl"
    file.write_text(file.read_text().replace("eve", "eva"))
    with pytest.raises(LedgerError, match="line 1"):
        channel.rollback()


def test_two_commands_on_one_channel_do_not_mix(tmp_path: Path) -> None:
    channel = promoted(tmp_path, "ada")
    with exclusive_lock(channel.directory / ".lock"), pytest.raises(AlreadyLocked):
        channel.promote(roster("ben"))


def test_no_directory_has_no_channels(tmp_path: Path) -> None:
    assert list_channels(tmp_path / "none") == ()


_changes = st.lists(
    st.builds(
        Change,
        kind=st.sampled_from(["promote", "rollback", "freeze", "unfreeze"]),
        roster=st.sampled_from(["a", "b", "c", None]),
        at=st.just(0.0),
    )
)


@given(_changes)
def test_whatever_happened_the_roster_in_force_is_the_last_one_named(changes: list[Change]) -> None:
    named = [change.roster for change in changes if change.kind in ("promote", "rollback") and change.roster]
    standing = standing_after(changes)
    assert standing.roster == (named[-1] if named else None)
    assert all(left != right for left, right in zip(standing.line, standing.line[1:], strict=False))
    assert standing.num_changes == len(changes)


@given(_changes)
def test_only_freezing_decides_whether_a_channel_is_frozen(changes: list[Change]) -> None:
    states = [change.kind for change in changes if "freeze" in change.kind]
    assert standing_after(changes).is_frozen == (bool(states) and states[-1] == "freeze")


def test_no_history_is_nothing_in_force() -> None:
    assert standing_after(()) == Standing()
