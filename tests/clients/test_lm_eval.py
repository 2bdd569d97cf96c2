from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.clients.conftest import quiet

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "What is {{{{question}}}}?"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 32}}
filter_list:
  - name: last-number
    filter: [{{function: regex, regex_pattern: "(-?[0-9]+)\\\\D*$"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def test_a_task_of_lm_eval_runs_against_the_door(door_url: str, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    lines = [{"question": f"{first} + {first + 7}", "answer": str(2 * first + 7)} for first in range(10, 18)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "sums.yaml").write_text(TASK.format(rows=rows))
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions", "--tasks", "sums"]
    command += ["--model_args", f"model=mesh:vote,base_url={door_url}/v1/chat/completions,num_concurrent=4"]
    command += ["--apply_chat_template", "--include_path", str(tmp_path), "--output_path", str(out)]
    environment = quiet() | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = out.rglob("results_*.json")
    results = json.loads(found.read_text())["results"]["sums"]
    assert results["exact_match,last-number"] == 1.0
