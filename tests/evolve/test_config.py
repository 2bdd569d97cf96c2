"""A bad configuration stops before anything starts, and the message names what to change."""

from pathlib import Path

import pytest
import yaml

from evolve.config import ConfigError, dump_config, load_config, load_mesh

GOOD = Path("configs/simulated.yaml")


def write(directory: Path, **changes: object) -> Path:
    data = yaml.safe_load(GOOD.read_text()) | changes
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    # One that only serves has no problems to evolve on.
    load = load_config if "problems" in yaml.safe_load(path.read_text()) else load_mesh
    config = load(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert load(copy) == config


def test_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"harvst: unknown key; did you mean 'harvest'"):
        load_config(write(tmp_path, harvst={}))


def test_unknown_key_deep_inside_names_its_path_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"harvest.sampels_per_member: .* mean 'samples_per_member'"):
        load_config(write(tmp_path, harvest={"sampels_per_member": 3}))


def test_unknown_key_in_an_engine_is_compared_with_that_kind_of_engine(tmp_path: Path) -> None:
    engine = {"kind": "scripted", "name": "ada", "family": "alpha", "skil": 0.5}
    with pytest.raises(ConfigError, match=r"serving.engines.0.skil: unknown key; did you mean 'skill'"):
        load_config(write(tmp_path, serving={"in_process": True, "engines": [engine]}))


def test_wrong_type_is_refused_with_what_came(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_generations: .*got 'many'"):
        load_config(write(tmp_path, num_generations="many"))


def test_more_worked_examples_than_any_task_has_cannot_be_tried(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"would show 3 worked examples, but no task has more than 0"):
        load_config(write(tmp_path, evaluation={"demonstrations": [0, 3]}))


def test_more_seats_than_the_vote_can_be_shared_out_among_are_refused(tmp_path: Path) -> None:
    engines = [{"kind": "scripted", "name": f"e{n}", "family": f"f{n}"} for n in range(3)]
    serving = {"in_process": True, "engines": engines}
    assert load_config(write(tmp_path, serving=serving, seats_per_engine=4)).seats_per_engine == 4
    with pytest.raises(ConfigError, match=r"expected at most 12 seats.*got 15: 3 engines with 5"):
        load_config(write(tmp_path, serving=serving, seats_per_engine=5))


def test_a_value_out_of_bounds_is_refused_with_what_the_key_is_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gate.max_finalists: .* 3 \(got 4\); max_finalists: .* they share alpha"):
        load_config(write(tmp_path, gate={"max_finalists": 4}))
    with pytest.raises(ConfigError, match=r"seats_per_engine: .*\(got 7\); .* every subset of the seats is replayed"):
        load_config(write(tmp_path, seats_per_engine=7))
    engine = {"kind": "scripted", "name": "ada", "family": "alpha", "skill": 2.0}
    with pytest.raises(ConfigError, match=r"serving.engines.0.skill: .* 1 \(got 2.0\); skill: "):
        load_config(write(tmp_path, serving={"in_process": True, "engines": [engine]}))


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gate.alpha: expected a finite number, got nan"):
        load_config(write(tmp_path, gate={"alpha": float("nan")}))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("{a: [")
    with pytest.raises(ConfigError, match=r"bad.yaml: not valid YAML"):
        load_config(path)


def test_training_rank_above_the_engines_is_refused(tmp_path: Path) -> None:
    data = yaml.safe_load(Path("configs/quickstart.yaml").read_text())
    data["training"]["rank"] = 64
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"training.rank is 64, but an engine takes max_lora_rank 16"):
        load_config(path)


def test_scripted_engines_cannot_be_trained_for_real(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"use training\.kind 'scripted'"):
        load_config(write(tmp_path, training={"kind": "lora"}))
