from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from mesh.config import CouncilConfig, Limits, ProtocolConfig, SingleConfig, VoteConfig

PROTOCOL: TypeAdapter[ProtocolConfig] = TypeAdapter(ProtocolConfig)


def test_a_protocol_is_chosen_by_its_kind() -> None:
    assert isinstance(PROTOCOL.validate_python({"kind": "vote", "samples_per_member": 8}), VoteConfig)
    assert isinstance(PROTOCOL.validate_python({"kind": "council"}), CouncilConfig)
    assert isinstance(PROTOCOL.validate_python({"kind": "single"}), SingleConfig)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "debate"},
        {"kind": "vote", "rounds": 2},
        {"kind": "vote", "samples_per_member": 0},
        {"kind": "council", "rounds": 0},
        {"kind": "council", "call_timeout_s": float("nan")},
        {"kind": "council", "sampling": {"seed": 3}},
        {"kind": "vote", "sampling": {"num_samples": 3}},
        {"kind": "single", "max_tokens_total": 0},
    ],
)
def test_what_a_protocol_cannot_honour_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PROTOCOL.validate_python(value)


@pytest.mark.parametrize("config", [Limits, SingleConfig, VoteConfig, CouncilConfig])
def test_every_option_has_its_sentence(config: type[Limits]) -> None:
    assert [name for name, field in config.model_fields.items() if name != "kind" and not field.description] == []
