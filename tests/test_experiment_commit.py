from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from evolve.config import load_config
from memory.ledger import Ledger
from scripts import experiment
from scripts.experiment import committed, note_sitting

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=kim", "-c", "user.email=kim@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one committed configuration."""
    found = tmp_path / "repository"
    (found / "configs").mkdir(parents=True)
    (found / "configs" / "a.yaml").write_text("name: a\n")
    git(found, "init", "-q")
    git(found, "add", ".")
    git(found, "commit", "-q", "-m", "a")
    return found


def test_a_committed_configuration_has_the_commit_of_the_tree(root: Path) -> None:
    assert committed(root, root / "configs" / "a.yaml") == git(root, "rev-parse", "HEAD")


def test_a_configuration_that_git_does_not_track_is_refused(root: Path) -> None:
    (root / "configs" / "b.yaml").write_text("name: b\n")
    with pytest.raises(SystemExit, match=r"in the last commit as it stands, got .*b\.yaml"):
        committed(root, root / "configs" / "b.yaml")


def test_one_that_is_ignored_or_lies_elsewhere_is_refused(root: Path) -> None:
    (root / ".gitignore").write_text("ignored.yaml\n")
    git(root, "add", ".gitignore")
    git(root, "commit", "-q", "-m", "b")
    for path in (root / "ignored.yaml", root.parent / "elsewhere.yaml"):
        path.write_text("name: b\n")
        with pytest.raises(SystemExit, match="commit it first"):
            committed(root, path)


def test_a_link_to_a_file_that_is_not_committed_is_refused(root: Path) -> None:
    (root.parent / "elsewhere.yaml").write_text("name: b\n")
    (root / "configs" / "link.yaml").symlink_to(root.parent / "elsewhere.yaml")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "b")
    with pytest.raises(SystemExit, match="commit it first"):
        committed(root, root / "configs" / "link.yaml")


def test_a_changed_one_is_refused_also_where_git_was_told_not_to_look(root: Path) -> None:
    path = root / "configs" / "a.yaml"
    path.write_text("name: other\n")
    with pytest.raises(SystemExit, match="found changes"):
        committed(root, path)
    git(root, "update-index", "--assume-unchanged", "configs/a.yaml")
    with pytest.raises(SystemExit, match="in the last commit as it stands"):
        committed(root, path)


@pytest.mark.parametrize(
    "wrong", [("--seed", "-3"), ("--seed", "many"), ("--generations", "0"), ("--audit-items", "0")]
)
def test_a_number_that_cannot_be_is_refused_before_anything_is_written(
    wrong: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--seed": "1", "--run-dir": str(tmp_path / "run")} | dict([wrong])
    said = [part for pair in given.items() for part in pair]
    monkeypatch.setattr("sys.argv", ["experiment.py", "configs/simulated.yaml", *said])
    with pytest.raises(SystemExit, match="2"):
        experiment.main()
    assert f"{wrong[0]}: expected a whole number from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_each_sitting_was_to_do_is_on_record_so_that_an_arm_added_later_can_be_told(tmp_path: Path) -> None:
    config = load_config(Path("configs/simulated.yaml")).model_copy(
        update={"run_dir": tmp_path / "run", "num_generations": 1}
    )
    assert note_sitting(config, "aa11", ("frozen",)) == ("aa11",)
    assert note_sitting(config, "bb22", ("frozen", "rft")) == ("aa11", "bb22")
    noted = [entry.payload for entry in Ledger(tmp_path / "run" / "sittings.jsonl").entries()]
    assert [(one["commit"], one["generations"], one["arms"]) for one in noted] == [
        ("aa11", 1, ["frozen"]),
        ("bb22", 1, ["frozen", "rft"]),
    ]


def test_an_arm_of_another_model_is_refused_at_once_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_config(Path("configs/simulated.yaml"))
    alone = plain.serving.model_copy(update={"engines": plain.serving.engines[:1]})
    monkeypatch.setattr(experiment, "load_config", lambda path: plain.model_copy(update={"serving": alone}))
    monkeypatch.setattr(experiment, "committed", lambda root, config: "aa11")
    said = ["--seed", "1", "--run-dir", str(tmp_path / "run"), "--arms", "rft-other"]
    monkeypatch.setattr("sys.argv", ["experiment.py", "configs/simulated.yaml", *said])
    with pytest.raises(SystemExit, match="rft-other: expected two models or more"):
        experiment.main()
    assert not (tmp_path / "run").exists()
