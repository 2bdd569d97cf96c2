"""Keys: what opens the door, what does not, and what is left of a key on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.ledger import AlreadyLocked, exclusive_lock
from serving.endpoint.keys import ANONYMOUS, KeyRefused, KeyRing, KeysError, Quota

NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys.json")


def test_a_made_key_is_found_and_bound_to_its_team(ring: KeyRing) -> None:
    record, secret = ring.create("billing", Quota(tokens=1000, per="hour"), project="nightly")
    found = ring.find(secret)
    assert found == record
    assert found.caller.key_id == record.id
    assert str(found.caller.namespace("served")) == "billing/nightly/served"


def test_neither_file_nor_record_holds_the_key(ring: KeyRing, tmp_path: Path) -> None:
    record, secret = ring.create("billing")
    random_part = secret.split("_", 2)[2]
    assert random_part not in (tmp_path / "keys.json").read_text()
    assert random_part not in record.model_dump_json()


def test_two_keys_of_one_team_differ_in_all_of_their_random_part(ring: KeyRing) -> None:
    secrets = {ring.create("billing")[1].partition("_")[2][13:] for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(secret) == 43 for secret in secrets)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key.upper(),
        lambda key: key.replace("em_", "em-"),
        lambda key: key + "\n",
        lambda key: "em_" + "0" * 12 + key[15:],
        lambda key: key[:15] + "\ud800" * 44,
    ],
)
def test_a_key_that_is_nearly_right_opens_nothing(ring: KeyRing, change: object) -> None:
    _, secret = ring.create("billing")
    assert callable(change)
    assert ring.find(change(secret)) is None


def test_one_keys_id_with_anothers_secret_opens_nothing(ring: KeyRing) -> None:
    first, second = ring.create("billing")[1], ring.create("search")[1]
    assert ring.find(first[:16] + second[16:]) is None


@given(st.text())
def test_no_text_opens_an_empty_ring(text: str) -> None:
    assert KeyRing(Path("/nonexistent/keys.json")).find(text) is None


def test_a_revoked_key_opens_nothing_in_a_ring_that_was_open_before(ring: KeyRing, tmp_path: Path) -> None:
    record, secret = ring.create("billing")
    other_process = KeyRing(tmp_path / "keys.json")
    assert other_process.find(secret) is not None
    ring.revoke(record.id)
    assert other_process.find(secret) is None
    assert other_process.list()[0].revoked_at is not None


def test_a_key_made_elsewhere_opens_at_once(ring: KeyRing, tmp_path: Path) -> None:
    _, secret = KeyRing(tmp_path / "keys.json").create("billing")
    assert ring.find(secret) is not None


def test_revoking_twice_keeps_the_first_time(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path / "keys.json", clock=clock)
    record, _ = ring.create("billing")
    first = ring.revoke(record.id)
    clock.now += 60
    assert ring.revoke(record.id[:6]) == first


def test_revoking_takes_the_whole_key_too_and_never_repeats_it(ring: KeyRing) -> None:
    _, secret = ring.create("billing")
    assert ring.revoke(secret).revoked_at is not None
    foreign = f"em_{'a' * 12}_{'S' * 43}"
    with pytest.raises(KeysError, match="fits 0") as caught:
        ring.revoke(foreign)
    assert "SSS" not in str(caught.value)


def test_revoking_what_fits_no_key_or_several_says_which_there_are(ring: KeyRing) -> None:
    record, _ = ring.create("billing")
    for wrong in ("zzz", ""):
        with pytest.raises(KeysError, match=record.id):
            ring.revoke(wrong)


def test_a_key_expires(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path / "keys.json", clock=clock)
    _, secret = ring.create("billing", lives_s=60.0)
    assert ring.find(secret) is not None
    clock.now += 60.0
    assert ring.find(secret) is None


@pytest.mark.parametrize("team", ["", "../etc", "a/b", "*", "a b", "x" * 64, "local", "ü"])
def test_odd_team_names_and_the_anonymous_team_are_refused(ring: KeyRing, team: str) -> None:
    with pytest.raises(KeysError):
        ring.create(team)
    assert ring.list() == ()


def test_a_damaged_file_keeps_the_known_keys_and_says_so(ring: KeyRing, tmp_path: Path) -> None:
    _, secret = ring.create("billing")
    path = tmp_path / "keys.json"
    good = path.read_bytes()
    path.write_text("{")
    assert ring.find(secret) is not None
    assert ring.fault is not None
    assert str(path) in ring.fault
    with pytest.raises(KeysError, match="expected JSON"):
        ring.create("search")
    with pytest.raises(KeysError, match="expected JSON"):
        KeyRing(path)
    path.write_bytes(good)
    assert ring.find(secret) is not None
    assert ring.fault is None


def test_a_file_that_is_gone_means_no_keys(ring: KeyRing, tmp_path: Path) -> None:
    _, secret = ring.create("billing")
    (tmp_path / "keys.json").unlink()
    assert ring.find(secret) is None


def test_two_processes_do_not_change_the_keys_at_once(ring: KeyRing, tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "keys.json.lock"), pytest.raises(AlreadyLocked):
        ring.create("billing")


def test_where_a_key_is_needed_only_a_good_one_is_admitted(ring: KeyRing) -> None:
    _, secret = ring.create("billing")
    assert ring.admit(f"Bearer {secret}", needs_key=True).team == "billing"
    assert ring.admit(f"bearer  {secret} ", needs_key=True).team == "billing"
    for wrong in (None, "", "Bearer", "Bearer sk-none", f"Basic {secret}", secret, f"Bearer {secret} x"):
        with pytest.raises(KeyRefused) as caught:
            ring.admit(wrong, needs_key=True)
        assert secret not in str(caught.value)


def test_where_no_key_is_needed_a_placeholder_is_nobody_and_a_revoked_key_is_refused(ring: KeyRing) -> None:
    record, secret = ring.create("billing")
    for nothing in (None, "", "Bearer EMPTY", "Bearer sk-123"):
        assert ring.admit(nothing, needs_key=False) == ANONYMOUS
    assert ring.admit(f"Bearer {secret}", needs_key=False).team == "billing"
    ring.revoke(record.id)
    with pytest.raises(KeyRefused, match="revoked"):
        ring.admit(f"Bearer {secret}", needs_key=False)
