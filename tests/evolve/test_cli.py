"""The command line as the shell sees it: exit codes, JSON, messages, and an answer in no time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from evolve.cli import app
from evolve.lineage import Lineage, Specialist, successor
from evolve.run_files import GENERATIONS
from evolve.training.scripted_train import scripted_shape
from mesh.types import Member
from serving.adapters import AdapterStore

SIMULATED = "configs/simulated.yaml"


def evomesh(*arguments: str) -> Result:
    """The command in this process: importing the libraries anew for every command would take minutes."""
    return CliRunner().invoke(app, arguments)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom evolve.cli import app\n"
        "heavy = {'torch', 'vllm', 'ray', 'faiss', 'transformers', 'numpy', 'pyarrow', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_help_lists_every_command() -> None:
    text = evomesh("--help").stdout
    for command in ("evolve", "deliberate", "batch", "report", "models", "memory", "config", "estimate", "doctor"):
        assert command in text


def test_bad_configuration_exits_with_2_and_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nrun_dir: y\nseeed: 1\n")
    done = evomesh("evolve", str(path))
    assert done.exit_code == 2
    assert "did you mean 'seed'" in done.stderr
    assert "Traceback" not in done.stderr


def test_real_command_exits_with_2_on_a_bad_configuration_and_shows_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evolve.cli", "config", "validate", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("evolve",), ("estimate",), ("config", "validate")])
def test_problems_that_cannot_be_drawn_are_told_with_the_file_and_the_key(tmp_path: Path, command: tuple[str]) -> None:
    path = tmp_path / "gone.yaml"
    text = Path("configs/own_tasks.yaml").read_text().replace("configs/own_tasks.jsonl", str(tmp_path / "none.jsonl"))
    engine = "{kind: scripted, name: ada, family: alpha}"
    data = yaml.safe_load(text) | {"serving": yaml.safe_load(f"{{in_process: true, engines: [{engine}]}}")}
    data |= {"training": {"kind": "scripted"}, "run_dir": str(tmp_path / "run")}
    path.write_text(yaml.safe_dump(data))
    done = evomesh(*command, str(path))
    assert done.exit_code == 2
    assert f"error EM-PROBLEMS: {path}: problems.path: expected a file of tasks, found none" in done.stderr


def test_missing_weights_exit_with_4_and_say_what_to_do(tmp_path: Path) -> None:
    text = Path("configs/smoke.yaml").read_text().replace("model_store: models", f"model_store: {tmp_path}/none")
    path = tmp_path / "smoke.yaml"
    path.write_text(text.replace("runs/smoke", str(tmp_path / "run")))
    done = evomesh("evolve", str(path))
    assert done.exit_code == 4
    assert "expected a prepared model, found none" in done.stderr


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "run"
    text = Path(SIMULATED).read_text()
    text = text.replace("{train: 40, dev: 40, gate: 120, audit: 60}", "{train: 10, dev: 6, gate: 12, audit: 6}")
    path = directory.parent / "simulated.yaml"
    path.write_text(text.replace("runs/simulated", str(directory)))
    done = evomesh("evolve", str(path))
    assert done.exit_code == 0, done.stderr
    assert "AUDIT accuracy" in done.stdout
    assert "the whole gate" in done.stdout.replace("\n", " ")
    return directory


def test_finished_run_answers_again_as_json(finished_run: Path) -> None:
    done = evomesh("evolve", str(finished_run.parent / "simulated.yaml"), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["run"] == "simulated"


def test_report_of_a_run_and_of_none(finished_run: Path, tmp_path: Path) -> None:
    assert json.loads(evomesh("report", str(finished_run), "--json").stdout)["generations"]
    done = evomesh("report", str(tmp_path))
    assert done.exit_code == 2
    assert "expected a finished run" in done.stderr


def test_memory_of_a_run_is_searched_counted_and_summed_up(finished_run: Path) -> None:
    assert json.loads(evomesh("memory", "stats", str(finished_run), "--json").stdout)["num_experiences"] > 0
    assert "brief" in json.loads(evomesh("memory", "brief", str(finished_run), "--json").stdout)
    assert isinstance(json.loads(evomesh("memory", "search", str(finished_run), "sum", "--json").stdout), list)


def seat_a_specialist(run: Path) -> str:
    """A generation more, in which one of the adapters that a run has trained sits; its name."""
    lineage, base = Lineage(run / GENERATIONS), scripted_shape("ada").fingerprint
    adapter = next(one.hash for one in AdapterStore(run / "adapters").list() if one.base == base)
    last = lineage.latest()
    assert last is not None
    of_ada = Member(name="ada-who-learned-sums", engine="ada", family="alpha", adapter=adapter)
    seats = [of_ada, *(member for member in last.seats if member.engine != "ada")]
    specialist = Specialist(
        name=of_ada.name, engine="ada", family="alpha", adapter=adapter, generation=last.number + 1, recipe="own",
        data_digest="d", gate_digest="g",
    )  # fmt: skip
    known = lineage.specialists()
    if adapter in known:
        lineage.append(successor(last, seats, returning=known.values()))
    else:
        lineage.append(successor(last, seats, [specialist], returning=known.values()))
    return of_ada.name


def test_deliberate_prints_the_transcript_with_the_seats_of_a_run(finished_run: Path, tmp_path: Path) -> None:
    config, run = str(finished_run.parent / "simulated.yaml"), tmp_path / "run"
    shutil.copytree(finished_run, run)
    name = seat_a_specialist(run)
    question = ("deliberate", "What is 17 + 25?", "--number", "-c", config)
    done, of_bases = evomesh(*question, "--run", str(run)), evomesh(*question)
    assert (done.exit_code, of_bases.exit_code) == (0, 0), done.stderr + of_bases.stderr
    assert "First proposals" in done.stdout
    assert "Verdict:" in done.stdout
    assert done.stdout.startswith("protocol escalate, the default, for ")
    assert name in done.stdout
    assert name not in of_bases.stdout


def test_batch_records_a_bad_line_and_answers_the_rest(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    good = '{"question": "1 + 1 =", "answer_kind": "number"}'
    tasks.write_text(f"{good}\nnot json\n{good.replace('1 +', '2 +')}\n")
    out = tmp_path / "out"
    done = evomesh("batch", str(tasks), "--out", str(out), "-c", SIMULATED, "--json")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["num_tasks"], summary["num_malformed"]) == (2, 1)
    assert len((out / "answers.jsonl").read_text().splitlines()) == 2
    assert '"line": 2' in (out / "errors.jsonl").read_text()


def test_config_show_and_schema_are_readable_by_machines() -> None:
    assert json.loads(evomesh("config", "show", SIMULATED, "--json").stdout)["gate"]["alpha"] == 0.05
    assert "properties" in json.loads(evomesh("config", "schema").stdout)


def test_estimate_prints_the_detectable_effect_before_the_run() -> None:
    found = json.loads(evomesh("estimate", SIMULATED, "--json").stdout)
    gate = found["bill"]["detectable"]["assumed"]
    assert 0.1 < gate["gain"] < 0.2
    assert gate["num_problems"] == 240
    assert found["totals"]["prompt_tokens"] > found["totals"]["output_tokens"] > 0
    assert "the whole gate" in evomesh("estimate", SIMULATED).stdout.replace("\n", " ")


def test_what_the_whole_gate_can_show_is_told_before_a_run_and_kept_with_it(tmp_path: Path) -> None:
    text = Path(SIMULATED).read_text()
    text = text.replace("{train: 40, dev: 40, gate: 120, audit: 60}", "{train: 10, dev: 6, gate: 4, audit: 6}")
    path = tmp_path / "simulated.yaml"
    path.write_text(text.replace("runs/simulated", str(tmp_path / "run")))
    first = evomesh("evolve", str(path), "--json")
    assert first.exit_code == 0, first.stderr
    assert "The whole gate (every rival beaten, no guard raised) finds no gain with 80% power" in first.stderr
    told = json.loads(first.stdout)["estimate"]
    assert told["bill"]["detectable"] is None
    kept = json.loads((tmp_path / "run" / "estimate.json").read_text())
    assert {name: value for name, value in told.items() if name != "totals"} == kept
    assert told["totals"]["seconds_low"] <= told["totals"]["seconds_high"]
    assert json.loads(evomesh("evolve", str(path), "--json").stdout)["estimate"] == told
