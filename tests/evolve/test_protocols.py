from __future__ import annotations

from pathlib import Path

import pytest

from evolve.commands.general import _what_comes
from evolve.commands.protocols import KINDS, chosen_protocol, told_protocol
from evolve.config import ConfigError, RunConfig, load_config
from mesh.config import CouncilConfig, EscalateConfig, SequentialConfig
from mesh.types import Sampling

NEEDS_SETTINGS = {"sequential", "parallel", "review"}


@pytest.fixture
def config() -> RunConfig:
    plain = load_config(Path("configs/simulated.yaml"))
    council = CouncilConfig(sampling=Sampling(temperature=0.3, stop=("\n",)), talk_max_tokens=17, rounds=3)
    return plain.model_copy(update={"deliberation": council})


def test_without_a_word_the_mesh_escalates_and_talks_as_its_council_does(config) -> None:
    protocol = chosen_protocol(config, None)
    assert isinstance(protocol, EscalateConfig)
    assert (protocol.sampling, protocol.talk_max_tokens, protocol.rounds) == (config.deliberation.sampling, 17, 3)


def test_the_configured_protocol_comes_before_the_default(config) -> None:
    council = CouncilConfig(rounds=2)
    assert chosen_protocol(config.model_copy(update={"protocol": council}), None) == council


def test_it_is_told_which_protocol_is_held_and_how_to_take_the_configured_council(config) -> None:
    path = Path("mine.yaml")
    told = told_protocol(config, None, path)
    assert told.startswith("protocol escalate, the default, for mine.yaml sets no protocol; --protocol council takes ")
    own = config.model_copy(update={"protocol": CouncilConfig()})
    assert told_protocol(own, None, path) == "protocol council, as mine.yaml has it"
    assert told_protocol(own, "vote", path) == "protocol vote, by --protocol"


def test_who_waits_for_engines_is_told_how_they_stay_up(config, tmp_path: Path) -> None:
    fleet = config.serving.fleet.model_copy(update={"directory": tmp_path})
    serving = config.serving.model_copy(update={"in_process": False, "fleet": fleet})
    told = _what_comes(serving, Path("my mesh.yaml"))
    assert told.startswith(f"starting {len(serving.engines)} engines: ")
    assert told.endswith("; `evomesh fleet up 'my mesh.yaml'` keeps them up for the next question")
    assert "fleet up" not in _what_comes(serving, None)
    assert "fleet up" not in _what_comes(config.serving, Path("mine.yaml")), "one process shares no engines"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - NEEDS_SETTINGS))
def test_a_protocol_by_name_takes_the_configured_sampling(config, kind: str) -> None:
    protocol = chosen_protocol(config, kind)
    assert (protocol.kind, protocol.sampling) == (kind, config.deliberation.sampling)


@pytest.mark.parametrize("kind", sorted(NEEDS_SETTINGS))
def test_a_pattern_without_its_parts_says_what_is_missing(config, kind: str) -> None:
    with pytest.raises(ConfigError, match="Field required"):
        chosen_protocol(config, kind)


def test_a_misspelt_name_is_answered_with_the_nearest(config) -> None:
    with pytest.raises(ConfigError, match="did you mean 'council'"):
        chosen_protocol(config, "councl")


def test_a_file_may_hold_nested_patterns(config, tmp_path) -> None:
    path = tmp_path / "pattern.yaml"
    path.write_text(
        "kind: sequential\nsteps:\n"
        "  - {name: draft, protocol: {kind: review, produce: {kind: vote}}}\n"
        "  - {name: check, protocol: {kind: parallel, branches: [{name: one, protocol: {kind: single}}]}}\n"
    )
    protocol = chosen_protocol(config, str(path))
    assert isinstance(protocol, SequentialConfig)
    assert [step.protocol.kind for step in protocol.steps] == ["review", "parallel"]


@pytest.mark.parametrize("text", ["kind: nothing", "steps: [", "- a", "kind: vote\nsamples: 3"])
def test_a_bad_file_is_a_configuration_error_that_names_it(config, tmp_path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        chosen_protocol(config, str(path))


def test_the_examples_in_the_documentation_are_protocols(config, tmp_path) -> None:
    text = Path("docs/deliberation.md").read_text("utf-8")
    examples = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        chosen_protocol(config, str(path))


def test_an_evolution_run_asks_nobody(config) -> None:
    data = config.model_dump(mode="json")
    data["deliberation"]["oversight"] = {"always": True}
    with pytest.raises(ValueError, match="asks nobody"):
        RunConfig.model_validate(data)
