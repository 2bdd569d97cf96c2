"""Samples in the formats of TRL, axolotl and LLaMA-Factory, with a page beside the file that says what a row is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from memory.ledger import publish_bytes, publish_json, read_json
from memory.types import Record
from mesh.types import Deliberation
from serving.export import Right, Sample, Sampler, Wanted

Format = Literal["trl", "trl-preference", "axolotl", "llamafactory", "llamafactory-preference"]
FORMATS: tuple[Format, ...] = get_args(Format)
DATASET_INFO = "dataset_info.json"
_SHAREGPT = {"user": "human", "assistant": "gpt"}


class ExportError(ValueError):
    """The export cannot be written as it was asked for."""


class Exported(Record):
    """What an export wrote."""

    format: Format
    num_traces: int
    num_rows: int
    num_verified: int = Field(description="rows whose answer was judged right")
    left_out: tuple[tuple[str, int], ...] = Field(description="(why, traces or rows), most first")
    files: tuple[Path, ...] = Field(description="the rows, then what lies beside them")


def export_traces(
    traces: Iterable[Deliberation],
    right: Right,
    out: Path,
    kind: Format,
    wanted: Wanted = Wanted(),  # noqa: B008
) -> Exported:
    """Write the samples of `traces` to `out` as JSONL, and a README beside it; each file appears whole.

    Raises:
        ExportError: `out` is no .jsonl file, or a `dataset_info.json` beside it is none.
        OSError: the disk is full, no permission.
    """
    if out.suffix != ".jsonl":
        raise ExportError(f"{out}: expected a file ending in .jsonl, which all of these tools read")
    info = _dataset_info(out, kind) if kind.startswith("llamafactory") else None
    sampler, count = Sampler(right, wanted), _Counted(traces)
    found = list(sampler.preferences(count) if kind.endswith("-preference") else sampler.demonstrations(count))
    publish_bytes(out, "".join(json.dumps(row_of(one, kind), ensure_ascii=False) + "\n" for one in found).encode())
    files = [out, out.with_name(f"{out.stem}.README.md")]
    exported = Exported(
        format=kind, num_traces=count.number, num_rows=len(found), num_verified=sum(one.verified for one in found),
        left_out=tuple(sorted(sampler.left_out.items(), key=lambda item: -item[1])), files=(),
    )  # fmt: skip
    if info is not None:
        files.append(out.with_name(DATASET_INFO))
        publish_json(files[-1], info)
    publish_bytes(files[1], readme(exported, out).encode())
    return exported.model_copy(update={"files": tuple(files)})


def row_of(sample: Sample, kind: Format) -> dict[str, Any]:
    """One row; beside what the tool reads it says which task it comes from and who wrote it."""
    prompt = [turn.model_dump() for turn in sample.prompt]
    match kind:
        case "trl":
            row: dict[str, Any] = {"prompt": prompt, "completion": [_said(sample.chosen)]}
        case "trl-preference":
            row = {"prompt": prompt, "chosen": [_said(sample.chosen)], "rejected": [_said(sample.rejected or "")]}
        case "axolotl":
            turns = [turn | {"train": False} for turn in prompt]
            row = {"messages": [*turns, _said(sample.chosen) | {"train": True}]}
        case "llamafactory":
            row = _sharegpt(sample)
            row["conversations"].append({"from": "gpt", "value": sample.chosen})
        case "llamafactory-preference":
            row = _sharegpt(sample)
            row |= {"chosen": {"from": "gpt", "value": sample.chosen}}
            row |= {"rejected": {"from": "gpt", "value": sample.rejected}}
    return row | _origin(sample)


def dataset_entry(name: str, kind: Format) -> dict[str, Any]:
    """How LLaMA-Factory is told to read the file, for its `dataset_info.json`."""
    columns = {"messages": "conversations", "system": "system"}
    entry: dict[str, Any] = {"file_name": name, "formatting": "sharegpt", "columns": columns}
    if kind == "llamafactory-preference":
        entry |= {"ranking": True, "columns": {**columns, "chosen": "chosen", "rejected": "rejected"}}
    return entry


def readme(exported: Exported, out: Path) -> str:
    """What a row is, how the tool is told to read it, and what was left out."""
    left_out = "".join(f"- {count}: {why}\n" for why, count in exported.left_out) or "- nothing\n"
    rows = PREFERENCE_ROW if exported.format.endswith("-preference") else ROW
    use = USE[exported.format].format(file=out.name, name=out.stem)
    return README.format(
        file=out.name, rows=rows, use=use, num_rows=exported.num_rows, num_traces=exported.num_traces,
        num_verified=exported.num_verified, left_out=left_out,
    )  # fmt: skip


class _Counted:
    """Traces that are counted as they go by."""

    def __init__(self, traces: Iterable[Deliberation]) -> None:
        self._traces = traces
        self.number = 0

    def __iter__(self) -> Any:
        for held in self._traces:
            self.number += 1
            yield held


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _sharegpt(sample: Sample) -> dict[str, Any]:
    system = "\n\n".join(turn.content for turn in sample.prompt if turn.role == "system")
    turns = [{"from": _SHAREGPT[t.role], "value": t.content} for t in sample.prompt if t.role != "system"]
    return {"conversations": turns, "system": system}


def _origin(sample: Sample) -> dict[str, object]:
    about = {"task_id", "task_type", "member", "family", "adapter", "confidence", "verified"}
    return sample.model_dump(mode="json", include=about)


def _dataset_info(out: Path, kind: Format) -> Mapping[str, Any]:
    """What LLaMA-Factory's list of data sets becomes: what it holds already, and this file."""
    path = out.with_name(DATASET_INFO)
    known: Any = {}
    if path.exists():
        try:
            known = read_json(path)
        except ValueError as error:
            raise ExportError(str(error)) from error
    if not isinstance(known, dict):
        raise ExportError(f"{path}: expected LLaMA-Factory's list of data sets, got {type(known).__name__}; move it")
    return {**known, out.stem: dataset_entry(out.name, kind)}


ROW = """\
A row is one task. Its prompt is what a member is asked for a first proposal: the instruction, worked examples as
earlier turns, the caller's conversation, the question; nothing that was recalled from memory, and nothing that other
members wrote. Its answer is **one member's own text, as that member wrote it**, for the answer that won: a first
proposal where there is one, written before its author had read anybody, else a revision. It is never a text that the
program put together."""

PREFERENCE_ROW = (
    ROW
    + """

There is a row for each distinct answer that **dissented**: `chosen` is the winner's own text, `rejected` the own text
of the first member that gave the other answer, to the same prompt. An answer that was judged right is never rejected.
What lost the vote and was not judged may still be right: see `verified`."""
)

USE: dict[Format, str] = {
    "trl": """\
TRL, prompt-completion, conversational:

```python
from datasets import load_dataset
from trl import SFTTrainer

rows = load_dataset("json", data_files="{file}", split="train")
SFTTrainer(model=..., train_dataset=rows)
```""",
    "trl-preference": """\
TRL, preference with explicit prompt, conversational:

```python
from datasets import load_dataset
from trl import DPOTrainer

rows = load_dataset("json", data_files="{file}", split="train")
DPOTrainer(model=..., train_dataset=rows, processing_class=...)
```""",
    "axolotl": """\
axolotl, `chat_template`. Only the last turn is to be learned; the others carry `"train": false`:

```yaml
datasets:
  - path: {file}
    ds_type: json
    type: chat_template
    field_messages: messages
    message_field_training: train
    roles_to_train: []
```""",
    "llamafactory": """\
LLaMA-Factory, `sharegpt`; `dataset_info.json` beside the file has the entry `{name}`. Only the last turn is to be
learned:

```yaml
dataset_dir: .
dataset: {name}
mask_history: true
```""",
    "llamafactory-preference": """\
LLaMA-Factory, `sharegpt` with ranking; `dataset_info.json` beside the file has the entry `{name}`:

```yaml
stage: dpo
dataset_dir: .
dataset: {name}
```""",
}

README = """\
# {file}

{rows}

`verified` true: the answer was judged right, by a label that came later. False: the mesh decided and nobody judged it;
`confidence` is what the mesh gave it. `member`, `family` and `adapter` (null: the base model) say who wrote the text,
`task_id` and `task_type` what about. Tools ignore these columns.

{num_rows} rows from {num_traces} traces, {num_verified} of them verified. Left out:

{left_out}
## How to read it

{use}
"""
