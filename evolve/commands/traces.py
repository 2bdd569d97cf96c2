"""The command `traces export`: a batch's traces as training data for other tools."""

from __future__ import annotations

from pathlib import Path

from evolve.commands.general import OUT, print_json
from evolve.config import ConfigError
from serving.batch_journal import TRACES
from serving.export import Wanted
from serving.export_formats import FORMATS, ExportError, Format, export_traces
from serving.outcomes import OutcomeLedger, judged_right
from serving.traces import read_traces


def export_command(source: Path, kind: str, out: Path, wanted: tuple[bool, float], *, as_json: bool) -> None:
    """`evomesh traces export`; `wanted`: only verified answers, and the least confidence of others."""
    only_verified, min_confidence = wanted
    path = source / TRACES if source.is_dir() else source
    right = judged_right(OutcomeLedger(path.parent).all())
    chosen = Wanted(only_verified=only_verified, min_confidence=min_confidence)
    try:
        exported = export_traces(read_traces(path), right, out, _format(kind), chosen)
    except ExportError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        print_json(exported)
        return
    lines = [
        f"{exported.num_rows} rows from {exported.num_traces} traces, {exported.num_verified} of them judged right.",
        *(f"  left out {count}: {why}" for why, count in exported.left_out),
        f"Written: {', '.join(str(file) for file in exported.files)}",
    ]
    for line in lines:
        OUT.print(line, highlight=False, markup=False)


def _format(text: str) -> Format:
    found = next((kind for kind in FORMATS if kind == text), None)
    if found is None:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, got {text!r}")
    return found
