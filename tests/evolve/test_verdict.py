"""Novelty or noise: what the sentence may say, and what it must not."""

from evolve.audit.audited import NamedGain
from evolve.audit.novelty import Emergence, EmergenceReport, Internalisation, Solo, internalised
from evolve.audit.verdict import novelty_or_noise, pooled
from evolve.gates.gains import gain


def report(num_emergent: int, num_attempted: int, luck: float = 0.01, num_open: int = 0) -> EmergenceReport:
    found = [("emergent", ())] * num_emergent + [("not measured", ("ada was not asked alone",))] * num_open
    return EmergenceReport(
        findings=tuple(
            Emergence.model_validate(
                {"task_id": f"t{i}", "task_type": "", "finding": kind, "reasons": why, "upper_bound": 0.1}
            )
            for i, (kind, why) in enumerate(found)
        ),
        num_attempted=num_attempted,
        luck=luck,
    )


def learned(right_after: int, *, trained: bool) -> tuple[Internalisation, ...]:
    rows = [Solo(task_id=f"t{i}", was_trained_on=trained, before=(0, 30), after=(right_after, 30)) for i in range(8)]
    return internalised([row.model_copy(update={"after": (right_after + i % 2, 30)}) for i, row in enumerate(rows)])


def test_more_than_luck_over_all_generations_is_novelty() -> None:
    found = novelty_or_noise([report(2, 20), report(2, 20)], (), (), ())
    assert found.kind == "novelty"
    assert "4 of 40 tasks" in found.sentence
    assert found.sentence.endswith("and whether later specialists learned it was not measured.")


def test_what_luck_explains_is_not_shown_and_never_called_absent() -> None:
    some, none = novelty_or_noise([report(1, 20, luck=0.2)], (), (), ()), novelty_or_noise([report(0, 20)], (), (), ())
    assert (some.kind, none.kind) == ("not shown", "not shown")
    assert "which luck explains" in some.sentence
    assert "at most 16.1% of tasks can be new" in none.sentence


def test_a_task_that_every_generation_puts_to_the_mesh_is_one_draw() -> None:
    def numbered(start: int) -> EmergenceReport:
        one = report(2, 20)
        found = tuple(f.model_copy(update={"cluster": f"c{start + i}"}) for i, f in enumerate(one.findings))
        return one.model_copy(update={"findings": found, "clusters": tuple(f"c{start + i}" for i in range(20))})

    same, fresh = pooled([numbered(0), numbered(0)]), pooled([numbered(0), numbered(20)])
    assert same is not None
    assert fresh is not None
    assert (same.num_draws, fresh.num_draws, same.num_measured) == (20, 40, 40)
    assert same.p_luck > fresh.p_luck == report(4, 40).p_luck
    unknown = pooled([numbered(0), report(2, 20)])
    assert unknown is not None
    assert (unknown.clusters, unknown.p_luck) == ((), fresh.p_luck)


def test_without_a_measured_task_nothing_is_claimed() -> None:
    assert novelty_or_noise([], (), (), ()).kind == "not measured"
    unclear = novelty_or_noise([report(0, 2, num_open=2)], (), (), ())
    assert unclear.kind == "not measured"
    assert "2 of 2 tasks could not be decided, e.g. ada was not asked alone" in unclear.limits


def test_learning_is_said_with_what_it_was_tried_on() -> None:
    news = [report(4, 20)]
    assert "ones they were not trained on" in novelty_or_noise(news, learned(9, trained=False), (), ()).sentence
    own = novelty_or_noise(news, learned(9, trained=True), (), ())
    assert "beyond is not shown" in own.sentence
    assert any("may be memory" in limit for limit in own.limits)
    assert "it is not shown that later specialists" in novelty_or_noise(news, learned(0, trained=True), (), ()).sentence


def test_a_gain_that_is_not_shown_comes_with_what_would_have_been_found() -> None:
    flat = gain([1.0, 0.0] * 20, [0.0, 1.0] * 20, seed=1)
    assert flat is not None
    told = NamedGain(method="vote", before="generation 0", after="generation 3", gain=flat)
    found = novelty_or_noise([report(0, 20)], (), [told], ())
    assert any(one.startswith("vote, generation 3 beside generation 0: 50.0% to 50.0%") for one in found.evidence)
    assert any("would have been found in four runs of five" in limit for limit in found.limits)


def test_generations_weigh_by_the_tasks_they_put_to_the_mesh() -> None:
    whole = pooled([report(0, 30, luck=0.0), report(0, 10, luck=0.4)])
    assert whole is not None
    assert whole.luck == 0.1
