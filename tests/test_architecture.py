"""The shape of the code: which package may know which, and where the heavy libraries come in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("memory", "mesh", "serving", "evolve")
"""In the order of the arrows: each may import those before it, never one after it."""

DOORS: dict[str, tuple[str, ...]] = {
    "vllm": (
        "serving/vllm_adapters.py",
        "serving/vllm_embedder.py",
        "serving/vllm_engine.py",
        "serving/vllm_http.py",
        "serving/vllm_plugin.py",
    ),
    "ray": (
        "serving/actor.py",
        "serving/cluster.py",
        "serving/memory_actor.py",
        "serving/ray_session.py",
        "evolve/commands/ray_serve.py",
        "evolve/training/sharded.py",
        "evolve/training/workers.py",
    ),
    "faiss": ("memory/index.py",),
    "trl": ("evolve/training/train.py", "evolve/training/trainers.py"),
    "peft": ("evolve/training/train.py",),
    "fastapi": ("serving/endpoint/",),
    "starlette": ("serving/endpoint/",),
    "math_verify": ("mesh/symbolic_child.py",),
    "sympy": ("mesh/symbolic_child.py", "evolve/judging/gym_scorer.py"),
}
"""A library and the only files (or folders, ending in "/") that may import it, inside functions too."""

NOWHERE = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
"""What turns a file of somebody else's into running code."""

HEAVY = ("torch", "vllm", "ray", "faiss", "transformers", "datasets", "numpy", "pandas", "pyarrow")
"""What must not come along with plain data: `evomesh --help` answers in well under a second."""

MESH_MAY_IMPORT = {"memory", "mesh", "pydantic", "math_verify", "sympy"} | set(sys.stdlib_module_names)
MESH_MAY_NOT_IMPORT = {"http", "socket", "urllib", "ssl", "sqlite3"}

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LIGHT_MODULES = ["mesh", "memory", "mesh.types", "mesh.deliberate", "mesh.transcript", "memory.types"] + [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.name == "config.py"
]


def imported_modules(source: str, package: str = "") -> Iterator[str]:
    """Full names of all that `source` imports, anywhere in it, by statement or by a literal name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*parents, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__", "lazy_import"} and isinstance(node.args[0].value, str):
                yield node.args[0].value


def wrong_arrows(owner: str, modules: Iterator[str]) -> list[str]:
    """Imports of a package to the right of `owner`, or of things that no package may import."""
    later = PACKAGES[PACKAGES.index(owner) + 1 :]
    return [name for name in modules if name.split(".")[0] in (*later, *NOWHERE, "tests", "scripts")]


def wrong_doors(file: str, modules: Iterator[str]) -> list[str]:
    """Heavy libraries that `file`, a path from the root, imports without being their door."""
    return [name for name in modules if not _is_door(file, DOORS.get(name.split(".")[0]))]


def _is_door(file: str, doors: tuple[str, ...] | None) -> bool:
    return doors is None or any(file == door or (door.endswith("/") and file.startswith(door)) for door in doors)


def _imports_of(path: Path) -> Iterator[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return imported_modules(path.read_text(encoding="utf-8"), package)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_all_four_packages_are_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_one_way(path: Path) -> None:
    assert wrong_arrows(path.relative_to(ROOT).parts[0], _imports_of(path)) == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_commands_are_used_by_the_command_line_alone(path: Path) -> None:
    wrong = [name for name in _imports_of(path) if name.startswith("evolve.commands")]
    assert not wrong or _name(path) == "evolve/cli.py" or _name(path).startswith("evolve/commands/")


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_heavy_libraries_come_in_by_their_own_door(path: Path) -> None:
    assert wrong_doors(_name(path), _imports_of(path)) == []


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(ROOT).parts[0] == "mesh"], ids=_name)
def test_mesh_knows_no_model_runtime_and_no_network(path: Path) -> None:
    known = {name.split(".")[0] for name in _imports_of(path)}
    assert known <= MESH_MAY_IMPORT
    assert not known & MESH_MAY_NOT_IMPORT


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_code_of_a_model_repository_is_ever_run(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_plain_data_and_configuration_bring_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & {set(HEAVY)!r}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout.split(), found.stderr) == (0, [], "")


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import ray.util", ["ray.util"]),
        ("def f():\n    from vllm.lora import ops", ["vllm.lora"]),
        ("from . import types", ["mesh"]),
        ("from .types import Task", ["mesh.types"]),
        ("import importlib\nimportlib.import_module('faiss')", ["importlib", "faiss"]),
        ("if True:\n    x = __import__('trl')", ["trl"]),
    ],
)
def test_no_way_of_importing_is_overlooked(source: str, modules: list[str]) -> None:
    assert list(imported_modules(source, "mesh")) == modules


def test_a_wrong_arrow_and_a_wrong_door_are_found() -> None:
    assert wrong_arrows("mesh", iter(["memory.types", "serving.fleet", "evolve", "pickle"])) == [
        "serving.fleet",
        "evolve",
        "pickle",
    ]
    assert wrong_doors("serving/fleet.py", iter(["ray", "vllm.lora", "asyncio"])) == ["ray", "vllm.lora"]
    assert wrong_doors("serving/actor.py", iter(["ray.util"])) == []
    assert wrong_doors("serving/endpoint/app.py", iter(["fastapi"])) == []
