"""The set-up's own decisions, with a stand-in for pip: what is asked of which index, and what is told meanwhile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # it runs from there, before anything is installed
    import setup as module  # type: ignore[import-not-found]

    return module


def pip(directory: Path, *, finds: bool) -> list[str | Path]:
    """A command that writes down what it was given; where it `finds` nothing, it does so with an index alone."""
    script = directory / "pip.py"
    script.write_text(
        "import sys\n"
        f"open({str(directory / 'asked')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "print('WARNING: Retrying', file=sys.stderr)\n"
        f"sys.exit(0 if {finds} or '--extra-index-url' in sys.argv else 1)\n"
    )
    return [sys.executable, script, "torch"]


def asked(directory: Path) -> list[str]:
    return (directory / "asked").read_text().splitlines()


def test_an_index_that_does_not_answer_is_not_asked_where_another_has_torch(
    setup, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    setup.install_torch(pip(tmp_path, finds=True), on_own_index=True, answers=lambda: False)
    assert asked(tmp_path) == ["torch"]
    said = capfd.readouterr()
    assert "does not answer" in said.out
    assert "Retrying" not in said.err


def test_an_index_that_does_not_answer_is_asked_at_last(setup, tmp_path: Path) -> None:
    setup.install_torch(pip(tmp_path, finds=False), on_own_index=True, answers=lambda: False)
    assert asked(tmp_path) == ["torch", f"torch --extra-index-url {setup.TORCH_INDEX}"]


def test_an_index_that_answers_is_asked_at_once_and_none_for_another_build(setup, tmp_path: Path) -> None:
    setup.install_torch(pip(tmp_path, finds=False), on_own_index=True, answers=lambda: True)
    with pytest.raises(SystemExit, match="failed with exit status 1"):
        setup.install_torch(pip(tmp_path, finds=False), on_own_index=False, answers=lambda: True)
    assert asked(tmp_path) == [f"torch --extra-index-url {setup.TORCH_INDEX}", "torch"]
