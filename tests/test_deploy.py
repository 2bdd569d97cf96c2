"""What is deployed: manifests that hang together, alerts on metrics that exist, a node whose GPUs suffice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evolve.config import load_mesh
from serving.config import VllmSpec
from serving.endpoint.metrics import Metrics
from serving.placement import Room, gpus_of, plan

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
USER = 10001
GIB = 2**30

CLUSTERS = {"rayjob": "rayClusterSpec", "rayservice": "rayClusterConfig"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kuberay" / f"{name}.yaml").read_text("utf-8")))


def cluster_of(name: str) -> dict[str, Any]:
    (document,) = documents(name)
    return dict(document["spec"][CLUSTERS[name]])


def pods(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(role, pod spec) of the head and of every group of workers."""
    cluster = cluster_of(name)
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


PODS = [(name, role, pod) for name in CLUSTERS for role, pod in pods(name)]


@pytest.mark.parametrize(("name", "kind"), [("rayjob", "RayJob"), ("rayservice", "RayService")])
def test_a_manifest_is_of_its_kind_and_of_the_locked_ray(name: str, kind: str) -> None:
    (document,) = documents(name)
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    assert document["metadata"]["namespace"] == "evomesh"
    lock = (ROOT / "requirements" / "gpu.lock").read_text("utf-8")
    assert f"ray=={cluster_of(name)['rayVersion']} " in lock


@pytest.mark.parametrize(("name", "role", "pod"), PODS, ids=lambda value: value if isinstance(value, str) else "")
def test_no_pod_runs_as_root_or_may_become_it(name: str, role: str, pod: dict[str, Any]) -> None:
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["fsGroup"] == USER
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(("name", "role", "pod"), PODS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_mounted_volume_is_declared_and_every_claim_exists(name: str, role: str, pod: dict[str, Any]) -> None:
    claims = {d["metadata"]["name"] for d in documents("volumes") if d["kind"] == "PersistentVolumeClaim"}
    declared = {volume["name"]: volume for volume in pod["volumes"]}
    for container in pod["containers"]:
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == set(declared)
        assert container["workingDir"] == "/state"
    for volume in declared.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
    assert declared["shm"]["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("name", CLUSTERS)
def test_journal_and_memory_are_on_volumes_that_outlive_the_pods(name: str) -> None:
    head = dict(pods(name))["head"]
    mounts = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in head["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims[mounts["/state"]] == "evomesh-state"
    assert claims[mounts["/state/memory"]] == "evomesh-memory"


def test_memory_is_one_writers_block_volume_and_only_the_head_mounts_it() -> None:
    modes = {d["metadata"]["name"]: d["spec"]["accessModes"] for d in documents("volumes") if "spec" in d}
    assert modes["evomesh-memory"] == ["ReadWriteOnce"]
    for _, role, pod in PODS:
        assert any(volume["name"] == "memory" for volume in pod["volumes"]) == (role == "head")


def test_the_job_names_a_command_that_exists_and_outputs_on_a_volume() -> None:
    (document,) = documents("rayjob")
    words = document["spec"]["entrypoint"].split()
    assert words[:2] == ["evomesh", "batch"]
    assert words[words.index("--out") + 1].startswith("/state/")
    assert words[words.index("--config") + 1] == "/config/node8.yaml"
    from typer.testing import CliRunner

    from evolve.cli import app

    known = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["batch", "--help"]).stdout
    for option in (word for word in words if word.startswith("--")):
        assert option in known
    assert document["spec"]["backoffLimit"] >= 1
    assert document["spec"]["shutdownAfterJobFinishes"] is True


def test_the_service_watches_the_door_and_opens_its_port() -> None:
    (document,) = documents("rayservice")
    served = yaml.safe_load(document["spec"]["serveConfigV2"])
    (application,) = served["applications"]
    module, _, name = application["import_path"].partition(":")
    source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text("utf-8")
    assert f"def {name}(" in source
    (deployment,) = application["deployments"]
    assert deployment["num_replicas"] == 1
    assert f"class {deployment['name']}" in source
    config = load_mesh(ROOT / "configs" / "node8.yaml")
    assert deployment["graceful_shutdown_timeout_s"] > config.endpoint.drain_s
    head = dict(pods("rayservice"))["head"]
    ports = {port["name"]: port["containerPort"] for port in head["containers"][0]["ports"]}
    assert ports["door"] == config.endpoint.port
    assert head["terminationGracePeriodSeconds"] >= deployment["graceful_shutdown_timeout_s"]


def test_the_head_is_probed_for_ray_and_not_for_the_door() -> None:
    container = dict(pods("rayservice"))["head"]["containers"][0]
    for probe in ("livenessProbe", "readinessProbe"):
        words = " ".join(container[probe]["exec"]["command"])
        assert "healthz" in words
        assert "8700" not in words, "workers join through the head's service, so it must be ready before the engines"
    assert "wget" in DOCKERFILE


def test_the_image_ends_as_a_user_by_number_and_brings_every_package() -> None:
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user[-1] == f"{USER}:{USER}"
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "USER" in last_stage
    for package in ("memory", "mesh", "serving", "evolve"):
        assert f"COPY {package} {package}" in DOCKERFILE
        assert f"!{package}\n" in (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8")
    assert "--require-hashes" in DOCKERFILE
    assert "ENTRYPOINT" in last_stage


def test_the_cluster_lock_agrees_with_the_set_it_is_installed_on() -> None:
    def versions(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / name).read_text("utf-8")
        return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))

    base, top = versions("gpu.lock"), versions("cluster.lock")
    assert top
    assert {name: version for name, version in top.items() if base.get(name, version) != version} == {}
    assert "aiohttp-cors" in top, "Ray's job server does not start without it"


def exported_metrics() -> set[str]:
    """Names of the time series that a door exports, as Prometheus stores them."""
    names = set()
    for family in Metrics(loads=dict).registry.collect():
        if family.type == "counter":
            names.add(f"{family.name}_total")
        elif family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(family.name)
    return names


def alerts() -> list[dict[str, Any]]:
    found = yaml.safe_load((DEPLOY / "alerts.yaml").read_text("utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_is_on_metrics_that_exist_and_has_a_section_in_the_runbook(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\bevomesh_[a-z_]+\b", rule["expr"]))
    assert used <= exported_metrics()
    assert used or 'up{job="evomesh"}' in rule["expr"]
    assert rule["expr"].count("(") == rule["expr"].count(")")
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]
    assert rule["annotations"]["summary"].endswith(".")


def test_the_runbook_has_no_section_for_an_alert_that_is_none() -> None:
    headings = re.findall(r"^#+ (Evomesh\w+)$", (ROOT / "docs" / "runbook.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())


NODE8 = load_mesh(ROOT / "configs" / "node8.yaml")

WEIGHTS = {"qwen36": 31e9, "gemma4": 61.4e9, "ministral3": 15e9, "phi4": 29.4e9, "llama33": 40e9}
"""Bytes of the models' files, as the comments of the configuration work them out."""


def test_the_engines_of_node8_fit_one_node_of_eight_gpus_and_leave_one_for_training() -> None:
    node = Room(id="node8", num_gpus=8, free_gpus=8, gpu_bytes=80 * GIB, free_bytes=1024 * GIB)
    weights = {name: int(size) for name, size in WEIGHTS.items()}
    placement = plan(NODE8.serving.engines, [node], weights)
    assert placement.fits, placement.reasons
    assert sum(gpus_of(spec) * spec.replicas for spec in NODE8.serving.engines) == 7
    assert not plan(NODE8.serving.engines, [node.model_copy(update={"free_gpus": 6.0})], weights).fits


def test_every_gpu_of_node8_keeps_room_for_more_than_weights_and_keys() -> None:
    for spec in NODE8.serving.engines:
        assert isinstance(spec, VllmSpec)
        taken = WEIGHTS[spec.name] / spec.tensor_parallel + spec.kv_cache_gib * GIB
        assert 79.6 * GIB - taken > 10 * GIB, spec.name


def test_node8_has_five_families_dense_and_quantised_and_one_that_learns() -> None:
    specs = [spec for spec in NODE8.serving.engines if isinstance(spec, VllmSpec)]
    assert len({spec.family for spec in specs}) == 5
    assert [spec.name for spec in specs if spec.adapters] == ["phi4"]
    assert NODE8.memory.directory is not None, "the manifests mount a volume there"
