"""The report: one safe, self-contained page that says what happened, also when nothing did."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evolve.commands.summary import print_summary
from evolve.report.data import (
    AccuracyRow,
    AccuracyTable,
    AuditSentence,
    CandidateView,
    ConstantAnswer,
    CurationView,
    DropExample,
    ExampleView,
    FamilyView,
    GenerationView,
    MemoryView,
    ReportData,
    SeatView,
    SpecialistView,
    StageView,
    TalkView,
)
from evolve.report.evolution import ContestView, DecisionView, EvolutionView, FlowView
from evolve.report.formats import duration, plain, pvalue
from evolve.report.headline import caveats, headline, share, signed
from evolve.report.measure import Accuracy, Comparison, accuracy, compare, paired_difference
from evolve.report.page import render, write_report
from evolve.report.talk import JudgedCase, choose_examples, talk_view
from mesh.types import Critique, Deliberation, Proposal, Task, Verdict

EVIL = '<script src="https://evil.example/x.js">alert(1)</script><img src=x onerror=alert(2)>'
START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
METHODS = ("smollm2 alone", "gemma3 alone", "first-round vote", "mesh council")


def scores(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def row(task_type: str, n: int, constant: int, before: tuple[int, ...], after: tuple[int, ...]) -> AccuracyRow:
    return AccuracyRow(
        task_type=task_type,
        constant=ConstantAnswer(answer="12", accuracy=Accuracy(correct=constant, n=n)),
        comparisons=tuple(
            compare(method, scores(early, n), scores(late, n))
            for method, early, late in zip(METHODS, before, after, strict=True)
        ),
    )


def audit_table(split: str, gain: int = 6) -> AccuracyTable:
    families = ("chain_sum", "letter_counting", "gcd")
    rows = [row(name, 50, 9, (11, 9, 13, 15), (11 + gain, 9, 13 + gain, 15 + gain)) for name in families]
    rows.append(row("", 150, 27, (33, 27, 39, 45), (33 + 3 * gain, 27, 39 + 3 * gain, 45 + 3 * gain)))
    return AccuracyTable(split=split, rows=tuple(rows), note="Members alone: mean over 4 samples.")


def candidates() -> tuple[CandidateView, ...]:
    curve = tuple((step, 2.4 * 0.93**step + 0.4) for step in range(1, 31))
    good = CandidateView(
        name="smollm2-g1-a",
        engine="smollm2",
        recipe="sft, own-correct, lr 2e-4, 30 steps",
        parents=("smollm2-135m-instruct",),
        loss_curve=curve,
        trained_tokens=18_230,
        seconds=131.0,
        adapter="3fa9c1d20b77" + "0" * 52,
        admitted=True,
        hot_load_ms=26.4,
        dev=compare("alone", scores(20, 90), scores(31, 90)),
        promoted=True,
    )
    return (
        good,
        good.model_copy(update={"name": "gemma3-g1-a", "engine": "gemma3", "promoted": False, "adapter": "b1" * 32}),
        CandidateView(
            name="gemma3-g1-b",
            engine="gemma3",
            recipe="sft, shuffled targets (placebo)",
            status="quarantined",
            reason="loss was NaN at step 12",
            loss_curve=tuple((step, 2.4 + 0.05 * step * step) for step in range(1, 12)),
            seconds=44.0,
        ),
    )


def sample() -> ReportData:
    seats = tuple(SeatView(member=f"{name}-seat", engine=name, family=name) for name in ("smollm2", "gemma3"))
    adapted = (seats[0].model_copy(update={"adapter": "3fa9c1d20b77" + "0" * 52}), seats[1])
    return ReportData(
        run="quickstart-2026-03-02",
        config="run: quickstart\nseed: 7\nmesh:\n  kind: council\n  rounds: 1\n",
        versions=(("python", "3.11.9"), ("torch", "2.13.0+cpu"), ("vllm", "0.32.0")),
        machine="2 cores, 16 GiB, no GPU",
        started_at=START,
        finished_at=START + timedelta(minutes=22, seconds=14),
        peak_memory_gib=10.8,
        headline_method="mesh council",
        stages=tuple(
            StageView(name=name, seconds=seconds, prompt_tokens=prompt, output_tokens=output, trained_tokens=trained)
            for name, seconds, prompt, output, trained in (
                ("start engines", 118.0, 0, 0, 0),
                ("harvest", 340.0, 64_000, 31_000, 0),
                ("train", 262.0, 0, 0, 36_460),
                ("compare on DEV", 160.0, 21_000, 12_500, 0),
                ("gate", 235.0, 40_100, 19_200, 0),
                ("audit", 219.0, 38_000, 18_700, 0),
            )
        ),
        families=tuple(
            FamilyView(
                task_type=name,
                problems=(("TRAIN", 80), ("DEV", 30), ("GATE", 50), ("AUDIT", 50)),
                distinct_items=distinct,
                constant=ConstantAnswer(answer="1", accuracy=Accuracy(correct=38, n=210)),
            )
            for name, distinct in (("chain_sum", 810_000), ("letter_counting", 120_000), ("gcd", 44_500))
        ),
        verifier_audit=(
            AuditSentence(text="Every one of 630 references is accepted by its verifier."),
            AuditSentence(text="letter_counting accepts the constant “1” for .18 of its items.", ok=False),
        ),
        audit=audit_table("AUDIT"),
        candidates=candidates(),
        curation=(
            CurationView(
                task_type="chain_sum",
                kept=(("own-correct", 96), ("corrected revision", 11)),
                dropped=(("wrong", 310), ("duplicate", 44), ("too easy", 21)),
            ),
            CurationView(task_type="gcd", kept=(("own-correct", 61),), dropped=(("wrong", 402),)),
        ),
        drop_examples=(
            DropExample(task_type="chain_sum", reason="wrong", question="What is 12 + 30?", text=f"It is 41. {EVIL}"),
        ),
        generations=(
            GenerationView(number=0, seats=seats),
            GenerationView(number=1, seats=adapted, note="One seat changed."),
        ),
        specialists=(
            SpecialistView(
                name="smollm2-g1-a",
                adapter="3fa9c1d20b77" + "0" * 52,
                engine="smollm2",
                generation=1,
                parents=("smollm2-135m-instruct",),
            ),
        ),
        memory=MemoryView(
            experiences=(("problem", 240), ("attempt", 900), ("outcome", 900)),
            num_edges=2_040,
            num_deliberations=150,
            num_with_recall=148,
            examples=("Tried before: 12 + 31 = 43, which was checked and right.",),
        ),
        talk=(
            TalkView(
                label="generation 0",
                num_councils=60,
                num_critiques=48,
                num_valid_critiques=19,
                num_revisions=96,
                num_changed=22,
                wrong_to_right=5,
                right_to_wrong=3,
                num_abstained=9,
            ),
        ),
        examples=(
            ExampleView(
                title="Talking fixed it",
                why="the first-round vote was wrong, the verdict is right",
                task_type="chain_sum",
                transcript=f"smollm2-seat proposes 41\n  {EVIL}\ngemma3-seat proposes 42\nverdict 42 (2 of 2)",
            ),
        ),
    )


def bare(**changes: object) -> ReportData:
    fields = {"run": "r", "config": "", "started_at": START, "finished_at": START, "headline_method": "mesh council"}
    return ReportData.model_validate(fields | changes)


class Tags(HTMLParser):
    """Collects start tags, and checks that they nest."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render(sample())


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_a_share_is_the_same_number_in_a_table_and_in_a_sentence():
    for n in (40, 200, 1000):
        for count in range(n + 1):
            assert float(share(count / n)) == float(f"{count / n:.0%}"[:-1]) / 100


def test_page_needs_nothing_from_outside_and_runs_nothing(page: str) -> None:
    tags = parse(page)
    names = {name for name, _ in tags.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "video", "audio"}
    for name, attributes in tags.tags:
        assert not [key for key in attributes if key.startswith("on") or key in {"src", "srcset", "action", "data"}]
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#"), (name, attributes)
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_model_text_is_shown_and_never_interpreted(page: str) -> None:
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script src=") == 2


def test_markup_in_every_name_is_escaped() -> None:
    text = sample().model_dump_json().replace("smollm2", "<script>$x$&").replace("chain_sum", "<b onclick=x>")
    page = render(ReportData.model_validate_json(text))
    tags = parse(page)
    assert "script" not in {name for name, _ in tags.tags}
    assert not [attributes for _, attributes in tags.tags if "onclick" in attributes]


def test_hidden_and_reordering_characters_become_visible() -> None:
    assert plain("a\u202eb\u200bc\x00\ud800\n\tд") == "a\\u{202e}b\\u{200b}c\\u{0}\\u{d800}\n\tд"


def test_lone_surrogates_anywhere_do_not_stop_the_page(tmp_path: Path) -> None:
    broken = bare(run="x\ud800y", notes=("n\udfff",))
    write_report(broken, tmp_path / "report.html")
    assert b"\\ud800" in (tmp_path / "report.html").read_bytes()


def test_the_same_record_gives_the_same_page(page: str) -> None:
    assert render(sample()) == page


def test_publishing_leaves_one_file_and_replaces_an_older_page(tmp_path: Path) -> None:
    target = tmp_path / "run" / "report.html"
    write_report(bare(), target)
    write_report(sample(), target)
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
    assert "quickstart-2026-03-02" in target.read_text("utf-8")


def test_a_run_without_anything_still_gives_a_whole_page() -> None:
    page = render(bare())
    parse(page)
    for sentence in ("No candidate was trained", "No candidate reached the gate", "Nothing was measured on AUDIT"):
        assert sentence in page
    assert "Nothing was promoted, because no candidate was trained." in page


def test_an_unfinished_run_says_so() -> None:
    page = render(sample().model_copy(update={"finished_at": None}))
    assert "The run has not ended" in page
    assert "<b>running</b>" in page


def test_zeros_and_missing_sides_are_shown_as_such() -> None:
    lopsided = AccuracyRow(
        task_type="",
        comparisons=(
            Comparison(method="mesh council", before=Accuracy(correct=0, n=10)),
            Comparison(method="vote", after=Accuracy(correct=0, n=0)),
            Comparison(method="nothing"),
        ),
    )
    page = render(bare(audit=AccuracyTable(split="AUDIT", rows=(lopsided,))))
    parse(page)
    assert "before only" in page
    assert "n = 0<" in page


def test_headline_of_a_promotion_gives_before_after_and_interval() -> None:
    sentence = headline(sample())
    assert sentence.startswith("Promoted smollm2-g1-a: mesh council on AUDIT .30 → .42 (+12.0 points, 95% interval +")
    assert sentence.endswith("n = 150).")
    assert caveats(sample()) == ("The mesh council ends at .42, above the best constant answers, which score .18.",)


def contest(name: str, p: float, *, passed: bool = False, kind: str = "candidate") -> ContestView:
    return ContestView(
        name=name, kind=kind, versus=(), threshold=0.05, p_adjusted=p, would_pass=passed, passed=passed,
        reason=f"24 won and 8 lost, adjusted p {p:g}",
    )  # fmt: skip


def nothing_promoted(*decisions: DecisionView, flows: tuple[FlowView, ...] = ()) -> str:
    losers = tuple(candidate.model_copy(update={"promoted": False}) for candidate in candidates())
    view = EvolutionView(num_generations=len(decisions), decisions=decisions, flows=flows)
    return headline(sample().model_copy(update={"candidates": losers, "evolution": view}))


def test_headline_names_the_reason_when_nothing_was_promoted() -> None:
    lost = DecisionView(
        generation=0, num_bred=2, reason="no finalist passed the gate",
        contests=(contest("g1-a", 0.2), contest("g1-b", 0.12), contest("A/A 0", 0.01, kind="aa")),
    )  # fmt: skip
    said = nothing_promoted(lost)
    assert said.endswith("because none of 2 finalists passed the gate (g1-b: 24 won and 8 lost, adjusted p 0.12)."), (
        said
    )
    alone = lost.model_copy(update={"contests": (contest("g1-a", 0.2),)})
    assert "the only finalist did not pass the gate (g1-a: " in nothing_promoted(alone)
    unseen = lost.model_copy(update={"contests": (), "reason": "no arrangement did better than the seats on DEV"})
    assert nothing_promoted(unseen) == "Nothing was promoted, because no arrangement did better than the seats on DEV."
    assert "in 2 generations, because generation 0: none of 2 " in nothing_promoted(
        lost, unseen.model_copy(update={"generation": 1})
    )


def test_headline_says_that_people_and_not_the_gate_kept_a_winner_out() -> None:
    won = DecisionView(
        generation=0, num_bred=1, reason="g1-a passed the gate", contests=(contest("g1-a", 0.001, passed=True),),
        ruling="vetoed by lee",
    )  # fmt: skip
    assert nothing_promoted(won) == (
        "Nothing was promoted, because g1-a passed the gate, but took no seat: vetoed by lee."
    )


def test_headline_says_that_nobody_was_right_before_it_says_that_nothing_was_trained() -> None:
    empty = DecisionView(generation=0, num_bred=2, num_quarantined=2, reason="no candidate was trained and admitted")
    assert "because every candidate was quarantined (loss was NaN at step 12)" in nothing_promoted(empty)
    elite = empty.model_copy(update={"contests": (contest("g0-a", 0.3),)})
    assert "the only finalist did not pass the gate (g0-a: " in nothing_promoted(elite)
    flow = FlowView(generation=0, num_samples=480)
    assert "because none of 480 answers was right, so that there was nothing to learn from." in nothing_promoted(
        empty, flows=(flow,)
    )


def test_a_promotion_that_audit_does_not_confirm_is_said_to_be_so() -> None:
    flat = sample().model_copy(update={"audit": audit_table("AUDIT", gain=0)})
    assert "not distinguishable from no change" in caveats(flat)[0]
    worse = sample().model_copy(update={"audit": audit_table("AUDIT", gain=-8)})
    assert "AUDIT contradicts the gate" in caveats(worse)[0]


def test_an_inert_council_is_called_inert(page: str) -> None:
    idle = TalkView(label="generation 0", num_councils=9, num_critiques=9, num_revisions=9)
    assert "The talking was inert: no critique was valid and no revision changed an answer." in render(
        bare(talk=(idle,))
    )
    assert "inert" not in page


def test_wilson_interval_matches_published_values() -> None:
    low, high = Accuracy(correct=81, n=263).interval or (0, 0)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert Accuracy(correct=0, n=20).interval == (0.0, pytest.approx(0.1611, abs=1e-4))
    assert Accuracy(correct=0, n=0).interval is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_paired_interval_holds_its_mean_and_turns_with_the_sides(pairs: list[tuple[float, float]]) -> None:
    before, after = [early for early, _ in pairs], [late for _, late in pairs]
    forth, back = paired_difference(before, after), paired_difference(after, before)
    assert forth is not None
    assert back is not None
    assert -1.0 <= forth.low < forth.high <= 1.0
    assert forth.low - 1e-9 <= forth.mean <= forth.high + 1e-9
    assert forth.low == pytest.approx(-back.high, abs=1e-9)


def test_paired_difference_refuses_different_problems_and_knows_no_data() -> None:
    with pytest.raises(ValueError, match="got 1 before and 2 after"):
        paired_difference([1.0], [1.0, 0.0])
    assert paired_difference([], []) is None
    assert accuracy([0.25, 1.0]).mean == 0.625


def test_numbers_print_the_way_tables_need_them() -> None:
    assert [share(value) for value in (0.314, 1.0, 0.0, None)] == [".31", "1.00", ".00", "–"]
    assert [signed(value, 1) for value in (3.0, -2.5, 0.0, -0.04)] == ["+3.0", "−2.5", "0.0", "0.0"]
    assert [duration(value) for value in (0.0, 4.26, 59.7, 125, 7_380)] == [
        "0 s",
        "4.3 s",
        "1 min 00 s",
        "2 min 05 s",
        "2 h 03 min",
    ]
    assert [pvalue(value) for value in (None, 0.0001, 0.0351, 0.5)] == ["–", "< .001", ".035", ".50"]


def case(number: int, first: bool, final: bool, answers: tuple[str | None, ...] = ("1", "2")) -> JudgedCase:
    proposals = [Proposal(member=f"m{i}", family="f", text="t", answer=answer) for i, answer in enumerate(answers)]
    revised = Proposal(member="m0", family="f", text="t", answer="2", round=1)
    deliberation = Deliberation(
        id=f"{number:02d}",
        task=Task(id=str(number), question="q", type="chain_sum"),
        protocol="council",
        seed=0,
        members=(),
        proposals=(*proposals, revised),
        critiques=(Critique(member="m0", round=1, target_answer="2", text="x", valid=number % 2 == 0),),
        first_verdict=Verdict(answer="1", method="plurality"),
        verdict=Verdict(answer="2", method="vote"),
    )
    return JudgedCase(deliberation=deliberation, first_correct=first, final_correct=final)


def test_talk_counts_flips_changes_valid_critiques_and_abstentions() -> None:
    view = talk_view("g0", [case(0, False, True), case(1, True, False), case(2, True, True, ("2", None))])
    assert (view.num_councils, view.num_critiques, view.num_valid_critiques) == (3, 3, 2)
    assert (view.num_revisions, view.num_changed, view.num_abstained) == (3, 2, 1)
    assert (view.wrong_to_right, view.right_to_wrong) == (1, 1)


def test_examples_are_picked_by_rule_in_id_order_and_never_twice() -> None:
    cases = [case(5, False, True), case(3, False, True), case(4, True, False), case(9, True, True)]
    examples = choose_examples(cases, lambda trace: f"trace {trace.id}")
    assert [(example.title, example.transcript) for example in examples] == [
        ("Talking fixed it", "trace 03"),
        ("Talking broke it", "trace 04"),
        ("A disagreement settled", "trace 05"),
        ("Agreement from the start", "trace 09"),
    ]
    assert len(choose_examples(cases, lambda trace: "", limit=1)) == 1
    assert choose_examples([]) == ()
    assert "q" in choose_examples(cases)[0].transcript


def test_page_stays_small_and_takes_every_colour_from_its_stylesheet(page: str) -> None:
    assert len(page) < 400_000
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", page.split("</style>")[1]), "a stand-in colour was left"


def summary_of(data: ReportData) -> str:
    text = StringIO()
    print_summary(Console(file=text, width=200), data, Path("runs/a"))
    return text.getvalue()


def test_the_terminal_tells_the_versions_that_figures_rest_on_in_one_line() -> None:
    lines = summary_of(sample().model_copy(update={"machine": "Linux x86_64, Python 3.11.9"})).splitlines()
    assert "vllm 0.32.0, torch 2.13.0+cpu, Linux x86_64, Python 3.11.9" in [line.strip() for line in lines]
    assert not any("torch" in line for line in summary_of(bare()).splitlines())
