from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from evolve.learning.merged_rank import merged_rank
from evolve.training.config import MergeTraining
from evolve.training.delta import concatenate, dare, reduce_dense, reduce_factors, ties
from evolve.training.lora_files import AdapterUnfit, Factors, LoraFile, write_lora
from evolve.training.merge import distance, merge_adapters
from serving.adapters import AdapterStore, BaseModelShape

SHAPES = {"model.layers.0.self_attn.q_proj": (12, 8), "model.layers.1.mlp.up_proj": (6, 20)}
BASE = BaseModelShape(name="base", fingerprint="f", matrices=SHAPES)


def adapter(directory: Path, seed: int, rank: int = 3, alpha: float = 6.0, modules: tuple[str, ...] = ()) -> Path:
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True)

    def factors(module: str) -> Factors:
        num_out, num_in = SHAPES[module]
        return Factors(
            rng.standard_normal((rank, num_in), dtype=np.float32),
            rng.standard_normal((num_out, rank), dtype=np.float32),
        )

    write_lora(directory, {m: SHAPES[m] for m in modules or SHAPES}, rank, alpha, factors)
    return directory


def deltas(directory: Path) -> dict[str, np.ndarray]:
    file = LoraFile(directory)
    return {module: file.factors(module).delta for module in file.shapes}


def merge(parents: list[Path], target: Path, **settings: object):
    return merge_adapters(parents, MergeTraining.model_validate(settings), target, base_name="base")


@pytest.fixture
def two(tmp_path) -> list[Path]:
    return [adapter(tmp_path / "one", 1), adapter(tmp_path / "two", 2, rank=2, alpha=2.0)]


def assert_same(left: dict, right: dict, tolerance: float = 1e-5) -> None:
    assert left.keys() == right.keys()
    for module in left:
        np.testing.assert_allclose(left[module], right[module], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    "settings", [{"method": "svd"}, {"method": "ties", "density": 1}, {"method": "dare", "density": 1}]
)
def test_a_merge_of_one_adapter_is_that_adapter(tmp_path, settings):
    parent = adapter(tmp_path / "one", 1)
    report = merge([parent], tmp_path / "out", **settings)
    assert_same(deltas(tmp_path / "out"), deltas(parent))
    assert report.retained_energy == pytest.approx(1.0, abs=1e-6)
    assert distance(parent, tmp_path / "out") < 1e-5


def test_a_concatenation_of_one_adapter_has_its_very_bytes(tmp_path):
    parent = adapter(tmp_path / "one", 1)
    merge([parent], tmp_path / "out", method="cat")
    left, right = (load_file(p / "adapter_model.safetensors") for p in (parent, tmp_path / "out"))
    assert all(np.array_equal(left[name], right[name]) for name in left)
    assert left.keys() == right.keys()
    assert LoraFile(tmp_path / "out").scale == LoraFile(parent).scale


def test_a_concatenation_is_the_weighted_sum_of_updates_and_its_rank_the_sum_of_ranks(tmp_path, two):
    report = merge(two, tmp_path / "out", method="cat", weights=[0.25, 2.0])
    one, other = map(deltas, two)
    assert report.rank == 5
    assert (report.retained_energy, report.least_retained) == (1.0, 1.0)
    assert_same(deltas(tmp_path / "out"), {m: 0.25 * one[m] + 2.0 * other[m] for m in SHAPES})


def test_without_weights_a_merge_is_the_mean(tmp_path, two):
    merge(two, tmp_path / "out", method="cat")
    one, other = map(deltas, two)
    assert_same(deltas(tmp_path / "out"), {m: (one[m] + other[m]) / 2 for m in SHAPES})


def test_svd_at_full_rank_equals_the_concatenation_and_below_it_loses_what_it_says(tmp_path, two):
    merge(two, tmp_path / "cat", method="cat")
    whole = merge(two, tmp_path / "svd5", method="svd", rank=5)
    assert_same(deltas(tmp_path / "svd5"), deltas(tmp_path / "cat"))
    assert whole.retained_energy == pytest.approx(1.0, abs=1e-6)
    cut = merge(two, tmp_path / "svd2", method="svd", rank=2)
    before, after = deltas(tmp_path / "cat"), deltas(tmp_path / "svd2")
    total = sum(float((before[m] ** 2).sum()) for m in SHAPES)
    lost = sum(float(((before[m] - after[m]) ** 2).sum()) for m in SHAPES)
    assert cut.retained_energy == pytest.approx(1 - lost / total, abs=1e-5)
    assert cut.least_retained <= cut.retained_energy < 1
    assert cut.least_layer in SHAPES
    assert distance(tmp_path / "cat", tmp_path / "svd2") == pytest.approx((lost / total) ** 0.5, abs=1e-5)


def test_svd_without_a_rank_takes_the_largest_parents(two, tmp_path):
    assert merge(two, tmp_path / "out", method="svd").rank == 3
    assert merged_rank([3, 2], MergeTraining(method="cat")) == 5
    assert merged_rank([3, 2], MergeTraining(method="ties", rank=8)) == 8


def test_a_rank_above_that_of_the_update_is_filled_with_nothing(tmp_path, two):
    merge(two, tmp_path / "out", method="svd", rank=16)
    merge(two, tmp_path / "cat", method="cat")
    assert_same(deltas(tmp_path / "out"), deltas(tmp_path / "cat"))


def test_merging_and_merging_back_returns_the_parent(tmp_path, two):
    """(a + b) / 2 · 2 − b = a, the last step as a merge with the negated parent."""
    merge(two, tmp_path / "mean", method="cat")
    negated = load_file(two[1] / "adapter_model.safetensors")
    (tmp_path / "minus").mkdir()
    save_file({n: -v if "lora_B" in n else v for n, v in negated.items()}, tmp_path / "minus/adapter_model.safetensors")
    (tmp_path / "minus/adapter_config.json").write_text((two[1] / "adapter_config.json").read_text())
    report = merge([tmp_path / "mean", tmp_path / "minus"], tmp_path / "back", method="svd", rank=3, weights=[2, 1])
    assert report.retained_energy == pytest.approx(1.0, abs=1e-6)
    assert distance(two[0], tmp_path / "back") < 1e-4


@pytest.mark.parametrize("method", ["cat", "svd", "ties", "dare"])
def test_every_merge_passes_admission_and_the_same_input_gives_the_same_bytes(tmp_path, two, method):
    reports = [merge(two, tmp_path / name, method=method, density=0.7) for name in ("a", "b")]
    assert reports[0] == reports[1]
    stored = AdapterStore(tmp_path / "store").admit(tmp_path / "a", BASE, max_rank=8)
    assert stored.weights_sha256 == reports[0].adapter_sha256
    assert stored.rank == reports[0].rank
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"


def test_another_seed_drops_other_entries(tmp_path, two):
    config = MergeTraining(method="dare", density=0.5)
    merge_adapters(two, config, tmp_path / "a", base_name="base", seed=1)
    merge_adapters(two, config, tmp_path / "b", base_name="base", seed=2)
    assert distance(tmp_path / "a", tmp_path / "b") > 0.1


def test_a_layer_that_one_parent_leaves_alone_gets_the_others_update(tmp_path):
    one, only = adapter(tmp_path / "one", 1), "model.layers.1.mlp.up_proj"
    other = adapter(tmp_path / "two", 2, modules=(only,))
    merge([one, other], tmp_path / "out", method="cat", weights=[1, 1])
    left, right, found = deltas(one), deltas(other), deltas(tmp_path / "out")
    assert_same(found, {m: left[m] + (right[m] if m == only else 0) for m in SHAPES})


def test_parents_of_different_bases_and_too_large_ranks_are_refused(tmp_path, two):
    (tmp_path / "odd").mkdir()
    module = next(iter(SHAPES))
    narrow = Factors(np.ones((1, 4), dtype=np.float32), np.ones((12, 1), dtype=np.float32))
    write_lora(tmp_path / "odd", {module: (12, 4)}, 1, 1.0, lambda _: narrow)
    with pytest.raises(
        AdapterUnfit, match=r"expected adapters of one base model, got layers of \(12, 8\) and \(12, 4\)"
    ):
        merge([two[0], tmp_path / "odd"], tmp_path / "out")
    with pytest.raises(AdapterUnfit, match="a merge by cat has 5; merge by svd"):
        merge_adapters(two, MergeTraining(method="cat"), tmp_path / "out", base_name="base", max_rank=4)
    with pytest.raises(AdapterUnfit, match="a weight for each of 2 parents, got 1"):
        merge(two, tmp_path / "out", weights=[1])
    with pytest.raises(AdapterUnfit, match="at least one adapter"):
        merge([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_parent_is_refused_with_the_reason(tmp_path, two):
    weights = two[0] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(AdapterUnfit, match=r"plain LoRA adapter: .*expected the tensors to end"):
        merge(two, tmp_path / "out")


def test_bfloat16_and_float16_parents_are_read_as_what_they_say(tmp_path):
    import torch
    from safetensors.torch import save_file as save_torch

    parent = adapter(tmp_path / "one", 1)
    exact = load_file(parent / "adapter_model.safetensors")
    for dtype in (torch.bfloat16, torch.float16):
        save_torch(
            {name: torch.from_numpy(value).to(dtype) for name, value in exact.items()},
            parent / "adapter_model.safetensors",
        )
        file = LoraFile(parent)
        for module in SHAPES:
            expected = torch.from_numpy(exact[f"base_model.model.{module}.lora_A.weight"]).to(dtype).float().numpy()
            assert np.array_equal(file.factors(module).down, expected)


def test_ties_keeps_what_agrees_in_sign_and_averages_only_that():
    one = np.array([[4.0, 1.0, -3.0, 0.1]], dtype=np.float32)
    two = np.array([[2.0, -5.0, -1.0, 0.2]], dtype=np.float32)
    assert ties([one, two], [1, 1], 1.0).tolist() == [[3.0, -5.0, -2.0, pytest.approx(0.15)]]
    assert ties([one, two], [1, 1], 0.5).tolist() == [[3.0, -5.0, -3.0, 0.0]]
    assert ties([one, -one], [1, 1], 1.0).tolist() == [[0.0] * 4]


def test_dare_drops_the_share_that_it_should_and_keeps_the_expectation():
    ones = np.ones((200, 200), dtype=np.float32)
    merged = dare([ones], [1.0], 0.25, np.random.default_rng(0))
    assert set(np.unique(merged)) == {0.0, 4.0}
    assert merged.mean() == pytest.approx(1.0, abs=0.03)


def test_factors_that_are_averaged_one_by_one_would_give_something_else():
    """The mistake that this module is there to avoid."""
    rng = np.random.default_rng(3)
    one, two = (Factors(rng.standard_normal((2, 5)), rng.standard_normal((4, 2))) for _ in range(2))
    wrong = ((one.up + two.up) / 2) @ ((one.down + two.down) / 2)
    right = (one.delta + two.delta) / 2
    assert np.allclose(concatenate([one, two], [0.5, 0.5]).delta, right)
    assert not np.allclose(wrong, right, atol=0.1)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_the_two_ways_to_the_best_update_of_a_rank_agree_with_numpys_own(shape):
    rng = np.random.default_rng(0)
    factors = Factors(
        rng.standard_normal((9, shape[1]), dtype=np.float32), rng.standard_normal((shape[0], 9), dtype=np.float32), 0.5
    )
    u, s, vt = np.linalg.svd(factors.delta.astype(np.float64))
    best = (u[:, :4] * s[:4]) @ vt[:4]
    for reduced in (reduce_factors(factors, 4), reduce_dense(factors.delta, 4)):
        np.testing.assert_allclose(reduced.factors.delta, best, atol=1e-4)
        assert reduced.energy == pytest.approx((s**2).sum(), rel=1e-5)
        assert reduced.kept == pytest.approx((s[:4] ** 2).sum(), rel=1e-5)


def test_random_projection_keeps_nearly_as_much_as_the_best_and_says_how_much(monkeypatch):
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((80, 200), dtype=np.float32)
    best = reduce_dense(matrix, 8)
    monkeypatch.setattr("evolve.training.delta.EXACT_SIDE", 10)
    found = reduce_dense(matrix, 8, seed=5)
    lost = float(np.square(matrix - found.factors.delta, dtype=np.float64).sum())
    assert found.kept == pytest.approx(found.energy - lost, rel=1e-4)
    assert found.kept > 0.99 * best.kept
    assert np.array_equal(found.factors.up, reduce_dense(matrix, 8, seed=5).factors.up)
