from __future__ import annotations

from typing import get_args

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from mesh.budget import Budget
from mesh.config import (
    CouncilConfig,
    ProtocolConfig,
    SequentialConfig,
    SingleConfig,
    VoteConfig,
    members_named,
    parts_of,
)
from mesh.limits import Limits
from mesh.oversight import OversightConfig
from mesh.patterns.step import Step

PROTOCOL: TypeAdapter[ProtocolConfig] = TypeAdapter(ProtocolConfig)
CONFIGS: tuple[type[Limits], ...] = get_args(get_args(ProtocolConfig)[0])
VOTE = {"kind": "vote"}

NESTED = """
kind: sequential
oversight: {on_tie: true}
steps:
  - name: sides
    protocol:
      kind: parallel
      join: synthesise
      synthesiser: cy
      branches:
        - {name: one, protocol: {kind: single, member: ana}, instruction: Be brief.}
        - {name: two, protocol: {kind: review, produce: {kind: escalate, first: [ana, bo]}, reviewers: [cy]}}
  - name: parts
    passes: argument
    protocol: {kind: hierarchical, planner: bo, worker: {kind: vote, samples_per_member: 3}}
"""


def test_a_protocol_is_chosen_by_its_kind() -> None:
    assert isinstance(PROTOCOL.validate_python({"kind": "vote", "samples_per_member": 8}), VoteConfig)
    assert isinstance(PROTOCOL.validate_python({"kind": "council"}), CouncilConfig)
    assert isinstance(PROTOCOL.validate_python({"kind": "single"}), SingleConfig)


def test_there_are_ten_protocols_and_four_patterns_each_of_a_kind_of_its_own() -> None:
    kinds = [config.model_fields["kind"].default for config in CONFIGS]
    assert len(set(kinds)) == len(kinds) == 14


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "parliament"},
        {"kind": "vote", "rounds": 2},
        {"kind": "vote", "samples_per_member": 0},
        {"kind": "council", "rounds": 0},
        {"kind": "council", "call_timeout_s": float("nan")},
        {"kind": "council", "sampling": {"seed": 3}},
        {"kind": "vote", "sampling": {"num_samples": 3}},
        {"kind": "single", "max_tokens_total": 30},
        {"kind": "single", "budget": {"output_tokens": 0}},
        {"kind": "single", "budget": {"engine_seconds": float("nan")}},
        {"kind": "single", "budget": {"tokens": 7}},
        {"kind": "single", "oversight": {}},
        {"kind": "escalate", "first": ["ana"]},
        {"kind": "escalate", "min_confidence": 1.5},
        {"kind": "rank", "method": "elo"},
        {"kind": "rank", "max_candidates": 27},
        {"kind": "debate", "rounds": 0},
        {"kind": "review"},
        {"kind": "review", "produce": VOTE, "max_drafts": 0},
        {"kind": "review", "produce": {"kind": "nothing"}},
        {"kind": "hierarchical", "max_subtasks": 0},
        {"kind": "sequential", "steps": []},
        {"kind": "sequential", "steps": [{"name": "a/b", "protocol": VOTE}]},
        {"kind": "sequential", "steps": [{"name": "a", "protocol": VOTE}] * 2},
        {"kind": "parallel", "branches": [{"name": "a", "protocol": VOTE}] * 2},
    ],
)
def test_what_a_protocol_cannot_honour_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PROTOCOL.validate_python(value)


def test_a_name_that_stands_twice_is_named() -> None:
    with pytest.raises(ValidationError, match="got draft more than once"):
        SequentialConfig(steps=(Step(name="draft", protocol=VoteConfig()), Step(name="draft", protocol=VoteConfig())))


@pytest.mark.parametrize("config", [Step, Budget, OversightConfig, *CONFIGS], ids=lambda config: config.__name__)
def test_every_option_has_its_sentence(config: type[Limits]) -> None:
    assert [name for name, field in config.model_fields.items() if name != "kind" and not field.description] == []


def test_patterns_nest_in_yaml_and_come_back_as_they_were() -> None:
    nested = PROTOCOL.validate_python(yaml.safe_load(NESTED))
    assert [part.kind for part in parts_of(nested)] == [
        "sequential", "parallel", "single", "review", "escalate", "hierarchical", "vote",
    ]  # fmt: skip
    assert PROTOCOL.validate_json(nested.model_dump_json()) == nested


def test_every_name_in_a_pattern_is_found_however_deep_it_stands() -> None:
    nested = PROTOCOL.validate_python(yaml.safe_load(NESTED))
    assert sorted(members_named(nested)) == ["ana", "ana", "bo", "bo", "cy", "cy"]


def test_a_mistake_deep_in_a_pattern_is_found_when_it_is_read() -> None:
    with pytest.raises(ValidationError, match="samples_per_member"):
        PROTOCOL.validate_python(yaml.safe_load(NESTED.replace("samples_per_member: 3", "samples_per_member: -3")))
