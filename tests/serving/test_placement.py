"""Which replica goes where: whole GPUs first, replicas apart, and a reason for everything that does not fit."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serving.config import EngineSpec, PackagedModel, RemoteSpec, ScriptedSpec, VllmSpec
from serving.placement import GIB, Room, plan

MODEL = PackagedModel(name="gemma3-270m")


def vllm(name: str = "big", **settings: object) -> VllmSpec:
    return VllmSpec.model_validate({"name": name, "family": "f", "model": MODEL} | settings)


def scripted(name: str = "ada", **settings: object) -> ScriptedSpec:
    return ScriptedSpec.model_validate({"name": name, "family": "f"} | settings)


def node(id: str, gpus: float = 0.0, *, free: float | None = None, **fields: object) -> Room:
    room = {"id": id, "num_gpus": gpus, "free_gpus": gpus if free is None else free}
    return Room.model_validate(room | fields)


def nodes_of(*specs: EngineSpec, rooms: list[Room]) -> list[str | None]:
    return [placed.node for placed in plan(specs, rooms).replicas]


def test_what_needs_most_chooses_first_whatever_the_order_in_the_configuration() -> None:
    small, large = vllm("small", num_gpus=1, replicas=4), vllm("large", num_gpus=4, tensor_parallel=4)
    placement = plan([small, large], [node("a", 4), node("b", 4)])
    assert placement.fits
    assert placement.node_of("large", 0) == "a"
    assert {placement.node_of("small", replica) for replica in range(4)} == {"b"}


def test_replicas_of_one_engine_keep_to_different_nodes() -> None:
    found = nodes_of(vllm(num_gpus=1, replicas=3), rooms=[node("a", 8), node("b", 8), node("c", 8)])
    assert sorted(map(str, found)) == ["a", "b", "c"]


def test_a_single_replica_takes_the_node_with_least_left_so_that_large_ones_stay_whole() -> None:
    assert nodes_of(vllm(num_gpus=1), rooms=[node("a", 8), node("b", 8, free=2)]) == ["b"]


def test_engines_without_a_gpu_leave_gpu_nodes_alone_where_they_can() -> None:
    assert nodes_of(scripted(), rooms=[node("gpus", 8), node("plain")]) == ["plain"]
    assert nodes_of(scripted(), rooms=[node("gpus", 8)]) == ["gpus"]


def test_all_gpus_of_a_replica_are_on_one_node() -> None:
    placement = plan([vllm(num_gpus=4, tensor_parallel=4)], [node("a", 2), node("b", 2)])
    assert not placement.fits
    (reason,) = placement.reasons
    assert reason.startswith(
        "engine 'big': needs 4 GPU(s) on one node, the most that is free on one is 2 of 2, no node"
    )


def test_taken_gpus_are_told_from_missing_ones() -> None:
    (reason,) = plan([vllm(num_gpus=4, tensor_parallel=4)], [node("a", 8, free=3)]).reasons
    assert "the most that is free on one is 3 of 8, others take the rest" in reason


def test_half_a_gpu_is_never_put_together_from_two() -> None:
    halves = vllm(num_gpus=0.5, replicas=3)
    assert plan([halves], [node("a", 2, free=1.5)]).fits
    assert not plan([halves], [node("a", 1)]).fits
    assert not plan([vllm(num_gpus=1)], [node("a", 2, free=0.5)]).fits


def test_a_label_is_required_and_not_used_up() -> None:
    labelled = scripted(node="big_memory", replicas=50)
    rooms = [node("a"), node("b", labels=("big_memory",))]
    assert set(nodes_of(labelled, rooms=rooms)) == {"b"}


def test_a_missing_label_is_named_with_what_there_is_and_how_to_get_it() -> None:
    (reason,) = plan([scripted(node="big")], [node("a", labels=("small",))]).reasons
    assert "no node offers the resource 'big' (there are small)" in reason
    assert """ray start --resources='{"big": 1}'""" in reason


def test_a_cluster_without_a_node_is_said_so() -> None:
    assert plan([scripted()], []).reasons == ("engine 'ada': the cluster has no node",)


def test_memory_of_engines_on_the_cpu_adds_up() -> None:
    engine = vllm(kv_cache_gib=2, replicas=3)
    weights = {"big": GIB}
    assert plan([engine], [node("a", free_bytes=15 * GIB)], weights).fits
    placement = plan([engine], [node("a", free_bytes=14 * GIB)], weights)
    assert [placed.node for placed in placement.replicas] == ["a", "a", None]
    assert "needs about 5.0 GiB of memory, the most that is free on a node is 4.0 GiB" in placement.reasons[0]


def test_memory_nobody_knows_is_no_reason_to_refuse() -> None:
    assert plan([vllm(kv_cache_gib=900)], [node("a")]).fits
    assert plan([vllm(kv_cache_gib=900, num_gpus=1)], [node("a", 1)]).fits


def test_weights_and_cache_have_to_fit_on_each_gpu() -> None:
    room = node("a", 8, gpu_bytes=80 * GIB)
    weights = {"big": 140 * GIB}
    assert plan([vllm(num_gpus=4, tensor_parallel=4, kv_cache_gib=30)], [room], weights).fits
    (reason,) = plan([vllm(num_gpus=1, kv_cache_gib=30)], [room], weights).reasons
    assert "needs 170.0 GiB on each GPU for weights, keys and values, the largest has 80.0 GiB" in reason


def test_remote_engines_need_a_process_only() -> None:
    remote = RemoteSpec(name="far", family="f", base_url="http://localhost:1/v1", model="m")
    (placed,) = plan([remote], [node("a")]).replicas
    assert (placed.node, placed.needs) == ("a", "no GPU")


def test_a_reason_is_said_once_for_all_replicas_of_an_engine() -> None:
    assert len(plan([vllm(num_gpus=1, replicas=9)], [node("a")]).reasons) == 1


specs = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0]), st.integers(1, 5), st.booleans()), max_size=5
).map(
    lambda drawn: [
        vllm(f"e{index}", num_gpus=gpus, tensor_parallel=max(1, int(gpus)), replicas=replicas, kv_cache_gib=0.5)
        if not labelled
        else vllm(
            f"e{index}", num_gpus=gpus, tensor_parallel=max(1, int(gpus)), replicas=replicas, kv_cache_gib=0.5, node="x"
        )
        for index, (gpus, replicas, labelled) in enumerate(drawn)
    ]
)
clusters = st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=5).map(
    lambda drawn: [
        node(f"n{index}", gpus, labels=("x",) if labelled else (), free_bytes=20 * GIB)
        for index, (gpus, labelled) in enumerate(drawn)
    ]
)


@given(specs, clusters)
def test_no_node_is_ever_given_more_than_it_has(engines: list[VllmSpec], rooms: list[Room]) -> None:
    placement = plan(engines, rooms)
    by_name, by_id = {spec.name: spec for spec in engines}, {room.id: room for room in rooms}
    gpus, memory = Counter[str](), Counter[str]()
    for placed in placement.replicas:
        assert (placed.node is None) == bool(placed.reason)
        if placed.node is None:
            continue
        spec = by_name[placed.engine]
        assert spec.node is None or spec.node in by_id[placed.node].labels
        gpus[placed.node] += spec.num_gpus
        memory[placed.node] += 0 if spec.num_gpus else int(2.5 * GIB)
    assert all(taken <= by_id[id].num_gpus + 1e-6 for id, taken in gpus.items())
    assert all(taken <= 20 * GIB for taken in memory.values())


@given(specs, clusters)
def test_every_replica_is_placed_or_explained_once(engines: list[VllmSpec], rooms: list[Room]) -> None:
    placement = plan(engines, rooms)
    expected = [(spec.name, replica) for spec in engines for replica in range(spec.replicas)]
    assert [(placed.engine, placed.replica) for placed in placement.replicas] == expected
    assert placement == plan(engines, rooms)
