from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from itertools import permutations
from pathlib import Path

import pytest

from mesh.equivalence import Sameness, canonical
from mesh.symbolic import MAX_FORMULA_CHARS, MAX_FORMULAS, SymbolicError, SymbolicJudge, comparable, symbolic_groups
from mesh.symbolic_child import are_equal

READY = "import json, sys\nprint('{}', flush=True)\n"
SAYS_YES = READY + "for line in sys.stdin: print('{\"equal\": true}', flush=True)"
HANGS_AT_H = READY + (
    "import time\nfor line in sys.stdin:\n"
    "    if 'h' in line.split('cpu_s')[0].replace('first', ''): time.sleep(60)\n"
    "    r = json.loads(line); print(json.dumps({'equal': r['second'] != '1'}), flush=True)"
)


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-E", "-c", code)


def grouped(answers: list[str], code: str, timeout_s: float = 0.1) -> tuple[tuple[str, ...], ...]:
    async def ask() -> tuple[tuple[str, ...], ...]:
        judge = SymbolicJudge(timeout_s=timeout_s, command=child(code))
        with contextlib.suppress(SymbolicError):
            try:
                return await judge.groups(answers)
            finally:
                await judge.close()
        return (("could not be started",),)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x+x", "2x"),
        ("(x+1)^2", "x^2+2x+1"),
        ("x=5", "5"),
        ("sqrt(8)", r"2\sqrt{2}"),
        (r"\sin^2 x+\cos^2 x", "1"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2.0\end{pmatrix}"),
        ("1<x<2", "(1,2)"),
        ("2x+y=1", "y=1-2x"),
        ("1,2,3", "3,2,1"),
        ("x=2,3", "2,3"),
        (r"\pi", "3.141593"),
        ("x>2", "2<x"),
    ],
)
def test_equal_formulas_are_equal_in_both_directions(first: str, second: str) -> None:
    assert comparable(first, second)
    assert comparable(second, first)
    assert are_equal(first, second)
    assert are_equal(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x", "y"),
        ("x=5", "y=5"),
        ("1", "9=1"),
        ("2x+z=1", "1"),
        ("x^2=-1", "x^2=-2"),
        ("1=2", "3=4"),
        ("x=0.0000001", "0.0000002"),
        (r"3.2\times10^{-7}", "0.0000004"),
        ("5 cm", "5 m"),
        ("(1,2)", "(2,1)"),
        (r"\infty", r"-\infty"),
        ("x^2=4", "x=2"),
        ("10^{1000}", "10^{1000}+1"),
        ("1/0", "1/0+1"),
        ("not a $ formula {", "x"),
    ],
)
def test_different_formulas_are_different_in_both_directions(first: str, second: str) -> None:
    assert not are_equal(first, second)
    assert not are_equal(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("listen", "silent"),
        ("x=2 1/2", "3/2"),
        ("1e5", "5e"),
        ("50%", "50"),
        ("50%", "0.5"),
        ("(1,2)", "2,1"),
        ("0.0000001", "0.0000002"),
        ("(" * 13 + "x" + ")" * 13, "x"),
    ],
)
def test_what_math_verify_would_misread_is_left_to_spelling(first: str, second: str) -> None:
    assert not comparable(first, second)
    assert not comparable(second, first)


def test_a_formula_never_becomes_code(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for text in (
        f"__import__('os').system('touch {trap}')",
        f"open('{trap}','w')",
        "exit(1)",
        "print(x)*2",
        "lambda: 1",
    ):
        assert not are_equal(text, "1")
    assert not trap.exists()


def test_answers_are_grouped_whatever_their_order_and_whatever_hangs_among_them() -> None:
    hostile = [
        "9^{9^{9^{9}}}",
        "9**9**9**9",
        "(" * 95 + "x" + ")" * 95,
        "7" * 200_000,
        "__import__('os').system('true')",
    ]
    answers = ["$2x$", r"\boxed{x+x}", "x + x", "1/2", "x=0.5", "y", "7"]

    async def ask() -> list[tuple[tuple[str, ...], ...]]:
        judge = SymbolicJudge(timeout_s=1.0)
        try:
            return [await judge.groups(given) for given in [answers, answers[::-1], [*answers, *hostile]]]
        finally:
            await judge.close()

    started = time.perf_counter()
    found = asyncio.run(ask())
    assert found == [(("2x", "x+x"), ("0.5", "x=0.5"))] * 3
    assert Sameness(kind="math", merged=found[0]).key("$x+x$") == "2x"
    assert time.perf_counter() - started < 60.0  # three seconds on a quiet machine


def test_numbers_alone_start_no_child() -> None:
    assert asyncio.run(symbolic_groups(["1", "2"], timeout_s=1.0)) == ()


def test_no_chain_of_formulas_joins_two_numbers() -> None:
    groups = grouped(["1/3", "0.333333", "x/3", "y"], SAYS_YES)
    assert groups == (("y", "1/3", "x/3"),)


def test_a_formula_that_hangs_is_different_and_takes_no_other_along() -> None:
    assert grouped(["x", "h", "2h", "y", "z"], HANGS_AT_H) == (("x", "y", "z"),)


def test_a_child_that_dies_is_replaced() -> None:
    dies = READY + (
        "for line in sys.stdin:\n    r = json.loads(line)\n"
        "    if 'd' in r['first']: sys.exit(3)\n    print(json.dumps({'equal': r['second'] != '1'}), flush=True)"
    )
    assert grouped(["d", "x", "y"], dies, timeout_s=5.0) == (("x", "y"),)


def test_a_child_that_does_not_start_is_an_error_with_the_command_to_try() -> None:
    async def ask() -> None:
        await SymbolicJudge(command=child("raise SystemExit(7)")).groups(["x", "y"])

    with pytest.raises(SymbolicError, match="exit status 7; run it by hand"):
        asyncio.run(ask())


def test_no_child_is_started_where_spelling_settles_it() -> None:
    fails = "raise SystemExit(7)"
    for answers in ([], ["x"], ["x", "$x$"], ["1", "2", "1/3"], ["yes", "no way"], ["x" * 201, "y"], ["", "x"]):
        assert grouped(answers, fails) == ()


def test_only_so_many_formulas_are_compared_and_the_most_frequent_first() -> None:
    answers = ["often"[:2] + "*x"] * 2 + [f"x_{{{i}}}" for i in range(MAX_FORMULAS + 5)]
    (group,) = grouped(answers, SAYS_YES, timeout_s=5.0)
    assert len(group) == MAX_FORMULAS
    assert "of*x" in group
    assert len(canonical("x" * 300, "math")) > MAX_FORMULA_CHARS


def test_calls_take_turns_and_a_cancelled_one_leaves_no_answer_behind() -> None:
    async def ask() -> list[object]:
        judge = SymbolicJudge(timeout_s=5.0, command=child(HANGS_AT_H))
        hung = asyncio.create_task(judge.groups(["x", "h"]))
        waiting = [asyncio.create_task(judge.groups(list(pair))) for pair in permutations(["a", "b"])]
        await asyncio.sleep(0.2)
        hung.cancel()
        try:
            return [*await asyncio.gather(*waiting), await asyncio.gather(hung, return_exceptions=True)]
        finally:
            await judge.close()

    first, second, (hung,) = asyncio.run(ask())
    assert first == second == (("a", "b"),)
    assert isinstance(hung, asyncio.CancelledError)


def test_closing_ends_the_child_and_a_later_call_starts_another(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os; open({str(pid_file)!r}, 'a').write(f'{{os.getpid()}} ')\n" + SAYS_YES

    async def ask() -> None:
        judge = SymbolicJudge(timeout_s=5.0, command=child(code))
        for _ in range(2):
            assert await judge.groups(["x", "y"]) == (("x", "y"),)
            await judge.close()
            await judge.close()

    asyncio.run(ask())
    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
