"""The smoke configuration on the real engines: the whole loop, without a network, within its time.

This module runs before the one that keeps engines for the whole session: two fleets at once would not fit in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from evolve.lineage import Lineage
from evolve.report.data import ReportData
from serving.traces import read_traces

pytestmark = pytest.mark.engine

REPOSITORY = Path(__file__).parents[2]
LOOPBACK_ONLY = """
import fcntl, os, socket, struct, sys
up, running, request = 0x1, 0x40, 0x8914  # IFF_UP, IFF_RUNNING, SIOCSIFFLAGS
with socket.socket() as control:
    fcntl.ioctl(control, request, struct.pack("16sH14s", b"lo", up | running, b""))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def without_network() -> list[str]:
    """Prefix of a Python command that sees no interface but loopback; empty where the system forbids that."""
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode != 0:
        warnings.warn("no network namespaces here: that the run opens no network is not proved", stacklevel=1)
        return [sys.executable]
    return ["unshare", "-rn", sys.executable, "-c", LOOPBACK_ONLY]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportData]:
    run_dir = tmp_path_factory.mktemp("smoke") / "run"
    arguments = ["-m", "evolve.cli", "evolve", "configs/smoke.yaml", "--run-dir", str(run_dir), "--json"]
    done = subprocess.run(
        [*without_network(), *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    estimate = told.pop("estimate")
    assert estimate.pop("totals")["seconds_low"] > 0.0
    assert estimate == json.loads((run_dir / "estimate.json").read_text())
    return run_dir, ReportData.model_validate(told)


def test_smoke_run_trains_admits_and_hot_loads_a_specialist_of_each_family(smoke: tuple[Path, ReportData]) -> None:
    _, data = smoke
    assert {candidate.engine for candidate in data.candidates if candidate.admitted} == {"smollm2", "gemma3"}
    assert all((candidate.hot_load_ms or 1e9) < 60_000 for candidate in data.candidates)


def test_every_completion_of_a_candidate_names_its_adapter(smoke: tuple[Path, ReportData]) -> None:
    run_dir, data = smoke
    adapters = {candidate.name: candidate.adapter for candidate in data.candidates}
    seen = set()
    for path in (run_dir / "generation-0" / "dev").glob("*.parquet"):
        for trace in read_traces(path):
            for proposal in trace.proposals:
                assert proposal.adapter == adapters.get(proposal.member)
                seen.add(proposal.member)
    # Placebos are drawn at the gate alone.
    assert seen == {"smollm2", "gemma3", *(name for name in adapters if not name.endswith("-placebo"))}


def test_no_trace_of_the_smoke_run_has_a_failed_call(smoke: tuple[Path, ReportData]) -> None:
    run_dir, _ = smoke
    traces = [trace for path in run_dir.rglob("*.parquet") for trace in read_traces(path)]
    assert len(traces) > 50
    assert [failure for trace in traces for failure in trace.failures] == []


def test_generation_1_is_in_the_lineage_and_recalled_generation_0(smoke: tuple[Path, ReportData]) -> None:
    run_dir, data = smoke
    assert Lineage(run_dir / "generations.jsonl", readonly=True).verify() == 2
    assert data.memory is not None
    assert data.memory.num_with_recall > 0


def test_smoke_run_answers_at_once_when_it_is_started_again(smoke: tuple[Path, ReportData]) -> None:
    run_dir, data = smoke
    arguments = ["-m", "evolve.cli", "evolve", "configs/smoke.yaml", "--run-dir", str(run_dir), "--json"]
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("estimate")
    assert told == data.model_dump(mode="json")
