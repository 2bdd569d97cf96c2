"""Engines that sleep while a specialist is trained: woken whatever happens, found to be themselves, never forgotten."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from memory.ledger import exclusive_lock
from mesh.engine import EngineError
from mesh.types import Member, Message, Score
from serving.adapters import Adapter, AdapterStore
from serving.config import FleetConfig, ScriptedSpec, ServingConfig, SleepingEngines
from serving.fleet import Fleet
from serving.replica import ReplicaLoad
from serving.scripted_engine import ScriptedEngine
from serving.training_room import MAX_SHIFT, training_room, wake_forgotten

ADA, BEN = ScriptedSpec(name="ada", family="alpha"), ScriptedSpec(name="ben", family="beta")
SEAT = Member(name="ada", engine="ada", family="alpha")
SPECIALIST = SEAT.model_copy(update={"name": "sums", "adapter": "a" * 64})


class Sleeper(ScriptedEngine):
    """A scripted engine that says what it was told, and may dream itself into another one."""

    def __init__(self, spec: ScriptedSpec, log: list[str], *, shifts: Sequence[float] = (), fails: str = "") -> None:
        """`shifts`: bits per byte added to a score, one for each wake; `fails`: the verb that it refuses."""
        super().__init__(spec)
        self.log = log
        self.is_asleep = False
        self._shift = 0.0
        self._shifts = list(shifts)
        self._fails = fails

    async def sleep(self) -> None:
        self._note("sleep")
        self.is_asleep = True

    async def wake(self) -> None:
        self._note("wake")
        self.is_asleep = False
        self._shift = self._shifts.pop(0) if self._shifts else 0.0

    async def load_adapter(self, adapter: Adapter) -> float:
        self._note("load")
        self._shift = self._shifts.pop(0) if self._shifts else 0.0
        return 0.0

    async def retire_adapter(self, adapter_hash: str) -> None:
        self._note("retire")

    async def score(self, member: Member, messages: Sequence[Message], text: str, *, rank: int = 0) -> Score:
        assert not self.is_asleep
        num_bytes = len(text.encode())
        return Score(log_prob=-(2.0 + self._shift) * num_bytes * math.log(2), num_tokens=9, num_bytes=num_bytes)

    def _note(self, verb: str) -> None:
        self.log.append(f"{verb} {self.spec.name}")
        if verb == self._fails:
            raise EngineError(f"{verb} is refused")


class Store(AdapterStore):
    """Knows an adapter without having it."""

    def get(self, adapter_hash: str) -> Adapter:
        return Adapter(hash=adapter_hash, base="b", rank=1)


class Asked(Fleet):
    """A fleet that knows which of its engines sleep, as one of actors does."""

    async def ask_load(self) -> Mapping[str, tuple[ReplicaLoad, ...]]:
        return {
            name: tuple(ReplicaLoad(engine=name, asleep=isinstance(one, Sleeper) and one.is_asleep) for one in replicas)
            for name, replicas in self.replicas.items()
        }


def config_of(directory: Path, *names: str) -> ServingConfig:
    fleet = FleetConfig(directory=directory, training=SleepingEngines(engines=names)) if names else FleetConfig()
    # Copied in unchecked: a configuration with scripted engines that sleep is refused.
    return ServingConfig(engines=(ADA, BEN)).model_copy(update={"fleet": fleet})


def sleepers(log: list[str], **ada: object) -> Asked:
    return Asked({"ada": Sleeper(ADA, log, **ada), "ben": Sleeper(BEN, log)})


def train(
    config: ServingConfig, fleet: Fleet, log: list[str], *members: Member, error: Exception | None = None
) -> None:
    async def work() -> None:
        async with training_room(config, fleet, members, Store(Path())) as names:
            log.append(f"train beside {', '.join(names) or 'all'}")
            if error is not None:
                raise error

    asyncio.run(work())


def test_where_training_has_gpus_of_its_own_nobody_sleeps(tmp_path: Path) -> None:
    log: list[str] = []
    train(config_of(tmp_path), sleepers(log), log, SEAT)
    assert log == ["train beside all"]


def test_the_named_engines_sleep_meanwhile_and_wake_afterwards(tmp_path: Path) -> None:
    log: list[str] = []
    train(config_of(tmp_path, "ada"), sleepers(log), log, SEAT)
    assert log == ["sleep ada", "train beside ada", "wake ada"]


def test_they_wake_when_training_fails(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(RuntimeError, match="diverged"):
        train(config_of(tmp_path, "ada", "ben"), sleepers(log), log, error=RuntimeError("diverged"))
    assert log == ["sleep ada", "sleep ben", "train beside ada, ben", "wake ben", "wake ada"]


def test_an_engine_that_cannot_sleep_ends_it_before_anything_is_trained(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(EngineError, match="sleep is refused"):
        train(config_of(tmp_path, "ben", "ada"), sleepers(log, fails="sleep"), log)
    assert log == ["sleep ben", "sleep ada", "wake ada", "wake ben"]


def test_all_are_woken_although_one_does_not_wake(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(EngineError, match="wake is refused"):
        train(config_of(tmp_path, "ben", "ada"), sleepers(log, fails="wake"), log)
    assert log[-2:] == ["wake ada", "wake ben"]


def test_an_adapter_that_is_not_itself_after_the_sleep_is_loaded_anew(tmp_path: Path) -> None:
    log: list[str] = []
    train(config_of(tmp_path, "ada"), sleepers(log, shifts=[0.5, 0.0]), log, SPECIALIST)
    assert log == ["sleep ada", "train beside ada", "wake ada", "retire ada", "load ada"]


def test_rounding_is_no_other_adapter(tmp_path: Path) -> None:
    log: list[str] = []
    train(config_of(tmp_path, "ada"), sleepers(log, shifts=[MAX_SHIFT / 2]), log, SPECIALIST)
    assert log == ["sleep ada", "train beside ada", "wake ada"]


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_what_stays_another_one_is_an_error(tmp_path: Path, shift: float) -> None:
    log: list[str] = []
    with pytest.raises(EngineError, match="expected the same of 'sums' after its sleep as before"):
        train(config_of(tmp_path, "ada"), sleepers(log, shifts=[shift, shift]), log, SPECIALIST)


def test_a_base_that_is_another_one_is_an_error_without_anything_to_load(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(EngineError, match="expected the same of 'ada'"):
        train(config_of(tmp_path, "ada"), sleepers(log, shifts=[0.5]), log, SEAT)
    assert "load ada" not in log


def test_a_second_training_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    config, log, said = config_of(tmp_path, "ada"), list[str](), list[str]()
    fleet = sleepers(log)

    async def one(name: str) -> None:
        async with training_room(config, fleet, (), Store(Path()), told=said.append):
            log.append(f"{name} begins")
            await asyncio.sleep(0.05)
            log.append(f"{name} ends")

    async def both() -> None:
        await asyncio.gather(one("first"), one("second"))

    asyncio.run(both())
    assert log == [
        *("sleep ada", "first begins", "first ends", "wake ada"),
        *("sleep ada", "second begins", "second ends", "wake ada"),
    ]
    assert len(said) == 1
    assert said[0].startswith("another training uses the sleeping engines' GPUs")


def test_who_was_put_to_sleep_by_a_killed_training_is_woken(tmp_path: Path) -> None:
    config, log = config_of(tmp_path, "ada", "ben"), list[str]()
    fleet = sleepers(log)

    async def forget() -> tuple[tuple[str, ...], ...]:
        await fleet.sleep("ada")
        with exclusive_lock(tmp_path / "training"):
            during = await wake_forgotten(config, fleet)
        after = await wake_forgotten(config, fleet)
        return during, after, await wake_forgotten(config, fleet)

    assert asyncio.run(forget()) == ((), ("ada",), ())
    assert log == ["sleep ada", "wake ada"]
