"""What the report says of evolution over generations: the answer, its certainty, its price, and every alarm."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from evolve.audit.audited import NamedGain
from evolve.gates.gains import gain
from evolve.report.answer import alarms, cost_card, paid_card, rival_sentences, sure_card
from evolve.report.bars import interval_mark, reach_of, stacked_bar
from evolve.report.curve_plot import curves_plot, small_plot
from evolve.report.data import ReportData
from evolve.report.evolution import CostView, Curve, CurvePoint
from evolve.report.formats import duration, money, operations, percent, upfirst
from evolve.report.headline import caveats, headline
from evolve.report.page import render
from evolve.report.svg import ticks
from evolve.report.tree_plot import tree_plot
from evolve.report.view_evolution import beside_rivals, corrected, gain_view


def _sample() -> ModuleType:
    path = Path(__file__).with_name("evolved_run.py")
    spec = importlib.util.spec_from_file_location("evolved_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evolved() -> ReportData:
    made: ReportData = _sample().evolved()
    return made


@pytest.fixture(scope="module")
def page(evolved: ReportData) -> str:
    return render(evolved)


class Tags(HTMLParser):
    """Checks that tags nest, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def changed(data: ReportData, **fields: object) -> ReportData:
    return data.model_copy(update={"evolution": data.evolution.model_copy(update=fields)})


def test_the_page_nests_and_needs_nothing_from_outside(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "img", "link", "iframe"} & {name for name, _ in tags.tags}
    assert "&lt;script&gt;alert(1)" in page
    assert len(page) < 400_000


def test_every_plot_has_an_alternative_text(page: str) -> None:
    for attributes in re.findall(r"<svg ([^>]*)>", page):
        inner = re.match(r'x="', attributes)
        assert inner or "aria-label=" in attributes or 'aria-hidden="true"' in attributes, attributes


def test_one_sentence_says_whether_evolution_paid(evolved: ReportData) -> None:
    assert headline(evolved).startswith(
        "Evolution paid: the mesh's first-round vote rose from .38 to .45 on AUDIT over 3"
    )
    assert caveats(evolved) == ()
    flat = _sample().evolved(gains=(0.0, 0.01, 0.0, 0.005))
    assert headline(flat).startswith("It is not shown that evolution paid")
    worse = _sample().evolved(gains=(0.0, -0.02, -0.05, -0.09))
    assert (sure_card(worse).figure, sure_card(worse).tone) == ("harm is shown", "bad")
    assert (sure_card(flat).figure, sure_card(flat).tone) == ("not shown", "mute")


def test_a_run_that_promoted_nothing_says_why_for_each_generation(evolved: ReportData) -> None:
    nobody = evolved.model_copy(
        update={"candidates": tuple(c.model_copy(update={"promoted": False}) for c in evolved.candidates)}
    )
    alike = changed(
        nobody,
        decisions=tuple(
            d.model_copy(update={"reason": "no finalist passed the gate", "contests": ()})
            for d in evolved.evolution.decisions
        ),
    )
    assert headline(alike) == (
        "Nothing was promoted in 3 generations, because in each of them no finalist passed the gate."
    )


def test_three_cards_answer_gain_certainty_and_cost(evolved: ReportData) -> None:
    paid, sure, cost = paid_card(evolved), sure_card(evolved), cost_card(evolved)
    assert (paid.figure, paid.tone) == ("+6.7 points", "good")
    assert "+17.5% relative" in paid.lines[1]
    assert sure.figure == "shown"
    assert "over 600 paired problems" in sure.lines[0]
    assert "0 of 1 A/A arms" in sure.lines[1]
    assert cost.figure == "5 h 41 min"
    assert "7.30 at the configured prices of engines" in cost.lines


def test_rivals_are_said_to_be_beaten_only_where_that_is_shown(evolved: ReportData) -> None:
    constant, consistency = rival_sentences(evolved)
    assert "above the best constant answers" in constant
    assert "not distinguishable from self-consistency of g3-smollm2-own, 6 samples" in consistency
    weighed = evolved.evolution.beside[0].model_copy(update={"method": "mesh's vote weighed on DEV"})
    view = evolved.evolution.model_copy(update={"beside": (*evolved.evolution.beside, weighed)})
    *_, last = rival_sentences(evolved.model_copy(update={"evolution": view}))
    assert last.startswith("At the end the mesh's vote weighed on DEV is above the best constant answers")


def test_of_several_claims_beside_rivals_what_holm_takes_back_is_not_made(evolved: ReportData) -> None:
    first = evolved.evolution.beside[0]
    assert first.is_shown
    lucky = first.model_copy(update={"p": 0.047, "p_adjusted": 0.14})
    assert not lucky.is_shown
    view = evolved.evolution.model_copy(update={"beside": (lucky,)})
    (sentence,) = rival_sentences(evolved.model_copy(update={"evolution": view}))
    assert "is not distinguishable from the best constant answers" in sentence
    assert "but p = .047 is .14 after Holm over these comparisons" in sentence


def test_every_comparison_beside_a_rival_is_corrected_for_all_of_them() -> None:
    def named(*, wins: int) -> NamedGain:
        found = gain([0.0] * 40, [float(index < wins) for index in range(40)], seed=0)
        assert found is not None
        return NamedGain(method="single", before="ada", after="generation 1, vote", gain=found)

    strong, weak = beside_rivals([named(wins=12), named(wins=6)])
    assert strong.p is not None
    assert weak.p is not None
    assert strong.p_adjusted == pytest.approx(2 * strong.p)
    assert weak.p_adjusted == pytest.approx(weak.p)
    assert weak.p > strong.p


def test_arms_are_corrected_for_together_with_the_rivals_of_the_run_and_again_when_more_come(
    evolved: ReportData,
) -> None:
    def beside(*wins: int) -> NamedGain:
        found = gain([0.0] * 40, [float(index < wins[0]) for index in range(40)], seed=0)
        assert found is not None
        return NamedGain(method="vote", before=f"{wins[1]}", after="generation 1", gain=found)

    table = corrected([gain_view(beside(12, 0)), gain_view(beside(6, 1))])
    more = corrected([*table, gain_view(beside(9, 2))])
    assert [one.p_adjusted for one in table] == [pytest.approx(2 * (table[0].p or 0)), pytest.approx(table[1].p)]
    assert more[0].p_adjusted == pytest.approx(3 * (table[0].p or 0))
    assert more[1].p_adjusted == pytest.approx(table[1].p)
    shown = changed(evolved, beside=more)
    assert "Holm's correction for the 3 comparisons of this table" in render(shown).replace("&#39;", "'")


def test_a_run_that_lay_still_says_how_long_it_was_at_work(evolved: ReportData) -> None:
    worked = sum(stage.seconds for stage in evolved.stages)
    ended = [evolved.started_at + timedelta(seconds=worked * times) for times in (1.0, 10.0)]
    through, still = (cost_card(evolved.model_copy(update={"finished_at": at})).lines for at in ended)
    assert [line for line in still if line not in through] == [
        f"From its start to its end; at work for {duration(worked)} of that"
    ]


def test_placebos_are_counted_beside_the_candidates_and_their_tokens_told(evolved: ReportData) -> None:
    candidate = evolved.candidates[0]
    twin = candidate.model_copy(update={"name": "twin", "promoted": False, "is_placebo": True, "trained_tokens": 1234})
    plain = cost_card(evolved.model_copy(update={"candidates": (candidate,)})).lines
    beside = cost_card(evolved.model_copy(update={"candidates": (candidate, twin)})).lines
    count = f"{int(candidate.promoted)} of 1 candidates took a seat"
    assert count in plain
    assert f"{count}, beside 1 placebo that may not" in beside
    assert beside[0].endswith("trained tokens, 1,234 of these for placebos")


def test_signs_of_collapse_are_alarms(evolved: ReportData, page: str) -> None:
    found = alarms(evolved)
    assert any("wording repeats itself" in one for one in found)
    assert f"{len(found)} alarms" in page


def test_an_alarm_of_a_seat_that_stays_is_raised_once(evolved: ReportData) -> None:
    sick = next(life for life in evolved.evolution.life if any(health.alarms for health in life.health))
    stays = tuple(sick.model_copy(update={"generation": number}) for number in (2, 3, 4))
    found = [one for one in alarms(changed(evolved, life=stays)) if "wording repeats itself" in one]
    assert len(found) == 1
    assert found[0].startswith("Generations 2 to 4, ")


def test_decay_through_the_last_generation_is_an_alarm() -> None:
    fallen = _sample().evolved(gains=(0.0, 0.08, 0.12, 0.01))
    assert any(one.startswith("Decay: mesh's first-round vote was .50 in generation 2") for one in alarms(fallen))
    steady = _sample().evolved(gains=(0.0, 0.02, 0.05, 0.045))
    assert not any(one.startswith("Decay") for one in alarms(steady))


def test_a_false_promotion_and_a_contradiction_are_alarms(evolved: ReportData) -> None:
    first = evolved.evolution.decisions[0]
    contests = tuple(
        one.model_copy(update={"would_pass": True})
        if one.kind == "aa"
        else one.model_copy(update={"inconsistent": True})
        for one in first.contests
    )
    found = alarms(changed(evolved, decisions=(first.model_copy(update={"contests": contests}),)))
    assert any("the A/A arm A/A would have been promoted" in one for one in found)
    assert any("contradict each other" in one for one in found)


def test_a_winner_without_a_gain_on_fresh_items_and_a_lost_brood_are_alarms(evolved: ReportData) -> None:
    first = evolved.evolution.decisions[0]
    assert first.remeasured is not None
    none = first.remeasured.model_copy(update={"fresh_gain": -0.01, "high": first.remeasured.chosen_gain / 2})
    sick = first.model_copy(
        update={
            "remeasured": none,
            "num_bred": 4,
            "num_quarantined": 4,
        }
    )
    found = alarms(changed(evolved, decisions=(sick,)))
    assert any("was not there on fresh items" in one for one in found)
    assert any("all 4 candidates were quarantined" in one for one in found)
    unsure = none.model_copy(update={"high": first.remeasured.chosen_gain + 0.2})
    found = alarms(changed(evolved, decisions=(sick.model_copy(update={"remeasured": unsure}),)))
    assert not any("was not there" in one for one in found)


def test_no_alarm_is_said_too(evolved: ReportData) -> None:
    calm = changed(evolved, life=(), costs=())
    assert alarms(calm) == ()
    assert "No alarm:" in render(calm)


def test_gate_decisions_show_every_rival_guard_and_control(page: str) -> None:
    for words in ("its placebo", "one more sample", "the incumbents again (A/A)", "needs ≤ .025", "would not pass"):
        assert words in page
    assert "What this gate could see: a candidate truly" in page
    assert "On fresh items: g1-smollm2-own:" in page


def test_what_only_the_mesh_solved_is_told_of_train_and_of_audit_which_nobody_learned_from(page: str) -> None:
    section = page[page.index("What only the mesh solved") :]
    rows = re.findall(r'<tr><td>(\d)</td><td>(\w+)</td><td class="n">(\d+)</td>', section)
    assert rows == [(g, s, n) for g, s, n in (
        ("0", "TRAIN", "24"), ("0", "AUDIT", "77"), ("1", "TRAIN", "24"), ("2", "TRAIN", "24"), ("3", "AUDIT", "77"),
    )]  # fmt: skip


def test_credit_by_member_and_phase_and_the_curriculums_steps_are_shown(page: str) -> None:
    credit = page[page.index("credit by member and phase") :]
    found = re.findall(
        r'<td>smollm2</td><td>(\w+)</td><td class="n">([\d,]+)</td>.*?<td class="n">(\d+|–)</td></tr>', credit
    )
    assert found[:3] == [("propose", "1,900", "–"), ("revise", "48", "3"), ("critique", "40", "3")]
    assert "After generation 1: gcd moves to level 2: 80% of 240 answers were right." in page


def test_what_each_seat_adds_on_audit_and_the_archive_by_niche_are_shown(page: str, evolved: ReportData) -> None:
    shares = page[page.index("What each seat adds to the vote on AUDIT") :]
    assert "<td>gemma3</td>" in shares
    assert "43 of 600" in shares  # generation 3
    niches = page[page.index('id="archive"') :] if 'id="archive"' in page else page
    for cell in evolved.evolution.heat:
        assert cell.name in niches


def test_lines_of_descent_are_drawn_once_for_each_parent(evolved: ReportData) -> None:
    tree = tree_plot(evolved.generations, evolved.specialists)
    assert tree.count("started from") == 5
    assert "g3-smollm2-merge started from g2-smollm2-warm" in tree
    assert "g2-gemma3-distil learned from traces of g1-smollm2-own" in tree
    assert "seated now" in tree
    assert tree_plot((), ()) == ""


def test_curves_say_in_words_what_they_show(evolved: ReportData) -> None:
    plot = curves_plot(evolved.evolution.curves)
    label = re.search(r'aria-label="([^"]*)"', plot)
    assert label is not None
    assert "mesh&#x27;s first-round vote .38 to .45" in label[1]
    assert curves_plot(()) == ""
    single = Curve(method="v", kind="vote", points=(CurvePoint(generation=0, mean=0.0, low=0.0, high=0.0, n=5),))
    assert "v .00" in curves_plot((single,))
    assert small_plot("x", {}) == ""
    assert "generation 0 .50" in small_plot("x", {0: (0.5, None, None)})


def test_the_idle_share_needs_measured_engine_time() -> None:
    cost = CostView(generation=0, seconds=100.0, engine_seconds=120.0, num_engines=2)
    assert cost.idle_share == pytest.approx(0.4)
    assert CostView(generation=0, seconds=100.0, num_engines=2).idle_share is None
    assert CostView(generation=0, seconds=0.0, engine_seconds=0.0, num_engines=2).idle_share is None


def test_marks_keep_to_their_scale_and_say_their_numbers() -> None:
    mark = interval_mark(-0.5, 0.01, 0.5, 0.1)
    assert "+1.0 points, 95% interval −50.0 to +50.0" in mark
    assert all(-1.0 <= float(x) <= 181.0 for x in re.findall(r"[ML](-?[\d.]+) ", mark))
    assert reach_of([]) > 0.0
    assert "nothing" in stacked_bar([], 0.0)


def test_ticks_are_round_and_cover_the_values() -> None:
    for low, high in ((0.0, 1.0), (0.31, 0.312), (0.2, 0.2), (2.4, 3.0)):
        marks = ticks(low, high)
        assert marks[0] <= low + 1e-9
        assert marks[-1] >= high - 1e-9
        assert len(marks) <= 8


def test_figures_print_the_way_people_say_them() -> None:
    assert [operations(value) for value in (0.0, 2.4e15, 3.2e9, 12.0)] == ["–", "2.4 PFLOP", "3.2 GFLOP", "12 FLOP"]
    assert [money(value, "EUR") for value in (None, 3.2)] == ["–", "3.20 EUR"]
    assert [percent(value) for value in (None, 0.514)] == ["–", "51%"]
    assert [upfirst(text) for text in ("no gate", "g1-own passed", "")] == ["No gate", "g1-own passed", ""]


def test_a_report_is_read_without_statistics_libraries(evolved: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(evolved.model_dump_json())
    code = (
        "import sys; from evolve.report.data import ReportData; from pathlib import Path\n"
        f"ReportData.model_validate_json(Path({str(path)!r}).read_text())\n"
        "import evolve.report.page\n"
        "assert not {'scipy', 'torch', 'ray'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd(), timeout=120)
    assert done.returncode == 0, done.stderr
    again = ReportData.model_validate_json(path.read_text())
    assert render(again) == render(evolved)


def test_a_ratio_without_a_bound_is_not_told() -> None:
    def told(right_before: int) -> float | None:
        found = gain([1.0] * right_before + [0.0] * (600 - right_before), [1.0] * 300 + [0.0] * 300, seed=0)
        assert found is not None
        return gain_view(NamedGain(method="vote", before="the best constant", after="the mesh", gain=found)).relative

    assert told(2) is None
    assert told(100) == pytest.approx(2.0)
