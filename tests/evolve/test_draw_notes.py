"""Lines of a user's file that cannot be used reach the person who wrote them."""

import asyncio
import json
from pathlib import Path

from evolve.config import load_config
from evolve.progress import Silent
from evolve.run import run


class Listener(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def test_malformed_line_is_said_with_its_number_and_stands_in_the_report(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    lines = [json.dumps({"question": f"{n} + 1 =", "answer": str(n + 1), "type": "sum"}) for n in range(60)]
    tasks.write_text("\n".join([*lines[:2], "{broken", *lines[2:], lines[0]]) + "\n")
    path = tmp_path / "own.yaml"
    path.write_text(
        f"""
name: own
run_dir: {tmp_path}/run
serving:
  in_process: true
  engines:
    - {{kind: scripted, name: ada, family: alpha}}
    - {{kind: scripted, name: ben, family: beta}}
problems: {{kind: file, path: {tasks}, verifier: {{kind: numeric}}, answer_kind: number}}
training: {{kind: scripted}}
memory: {{embedder: hashed}}
harvest: {{problems_per_type: 4, samples_per_member: 2, councils_per_type: 1}}
evaluation: {{audit_councils_per_type: 1}}
"""
    )
    listener = Listener()
    data = asyncio.run(run(load_config(path), listener))
    of_the_lines = [note for note in listener.heard if note.startswith("not used, line 3: ") or "duplicates" in note]
    assert len(of_the_lines) == 2
    assert set(of_the_lines) <= set(data.notes)
