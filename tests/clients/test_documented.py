"""The commands in docs/serving.md, run as they stand there but for the address."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import quiet

PAGE = Path("docs/serving.md").read_text()
ADDRESS = "localhost:8791"


def block(kind: str, mark: str, door_url: str) -> str:
    """The first block of this kind that holds `mark`, for the door that is open."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (found, *_) = [one for one in blocks if mark in one]
    assert ADDRESS in found
    return str(found).replace(ADDRESS, door_url.removeprefix("http://"))


def shell(command: str) -> dict[str, object]:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, env=quiet())
    return dict(json.loads(done.stdout))


def test_the_request_and_the_outcome_with_curl(door_url: str) -> None:
    answer = shell(block("sh", "/v1/chat/completions", door_url))
    assert answer["object"] == "chat.completion"
    assert isinstance(answer["mesh"], dict)
    assert answer["mesh"]["answer"] == "42"
    report = re.sub(r"[0-9a-f]{32}", answer["mesh"]["deliberation"], block("sh", "/v1/outcomes", door_url))
    assert shell(report)["is_new"] is True


def test_the_request_with_the_sdk(door_url: str) -> None:
    pytest.importorskip("openai")
    program = block("python", "import openai", door_url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=quiet())
    assert done.stdout.split()[0] == "42", done.stderr
