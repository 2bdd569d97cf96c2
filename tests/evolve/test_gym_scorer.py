from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import reasoning_gym

from evolve.judging.gym_scorer import ARITHMETIC_ONLY, LITERAL_ONLY, is_arithmetic, is_formula
from evolve.judging.scorer import GymScorer

# One item of every family whose scorer evaluates the answer: reference, another right answer (None: the reference
# alone is right), a wrong answer, metadata.
ITEMS: dict[str, tuple[str, str | None, str, dict[str, object]]] = {
    "binary_matrix": ("0 1\n1 0", None, "0 1\n1 1", {}),
    "spiral_matrix": ("1 2 4 3", None, "1 2 3 4", {}),
    "string_insertion": ("ABBA", None, "ABBB", {}),
    "n_queens": ("_ Q\nQ _", None, "Q _\n_ Q", {"valid_answers": ["_ Q\nQ _"]}),
    "countdown": ("3 * (5 + 7)", "(7 + 5)*3", "3 + 5 + 7", {"numbers": [3, 5, 7], "target": 36}),
    "puzzle24": ("4 * 6 * 1 * 1", "(4*6)/1/1", "4 + 6 + 1 + 1", {"numbers": [4, 6, 1, 1]}),
    "polynomial_multiplication": ("x**2 + 3*x + 2", "2 + 3*x + x**2", "x**2 + 2", {}),
    "simple_integration": ("x**2/2 + C", "0.5*x**2 + K_1", "x + C", {"variable": "x", "integrand": "x"}),
    "intermediate_integration": (
        "-log(cos(X)) + C",
        "-ln(cos(X)) + C",
        "cos(X) + C",
        {"variable": "X", "integrand": "sin(X)/cos(X)"},
    ),
}
PAYLOADS = (
    "setattr(type(self),'score_answer',lambda *a:1.0) or [[]]",
    "setattr(__import__('sys')._getframe(6).f_locals['dataset'].__class__,'score_answer',lambda *a:1.0)",
    "setattr(json.JSONEncoder, 'encode', None)",
    "__import__('os').system('touch {mark}')",
    "().__class__.__base__.__subclasses__()",
    "exec('open(\\'{mark}\\', \\'w\\')')",
    "open('{mark}', 'w')",
)
NAMES = {"eval", "exec", "compile", "__import__", "parse_expr", "sympify", "S", "lambdify", "literal_eval", "loads"}
# Where the installed package evaluates something, (module, function, what): all that is reached by an answer is
# forbidden code in the child, and the rest is text of the package's own.
LITERAL = {(name, "score_answer", "eval") for name in LITERAL_ONLY}
ARITHMETIC = {(name, "score_answer", "parse_expr") for name in ARITHMETIC_ONLY}
FORMULAS = {
    (f"algebra.{name}", "score_answer", "parse_expr")
    for name in ("intermediate_integration", "polynomial_multiplication", "simple_integration")
}
TEXT_OF_ITS_OWN = {
    ("algorithmic.number_sorting", "score_answer", "eval"),  # the reference
    ("arithmetic.basic_arithmetic", "eval_floordiv", "eval"),
    ("arithmetic.bitwise_arithmetic", "generate_problem", "eval"),
    ("arithmetic.bitwise_arithmetic", "verify_solution", "eval"),  # the problem
    ("arithmetic.gsm_symbolic.generators_00_49", "generate_example", "eval"),
    ("arithmetic.gsm_symbolic.generators_50_99", "generate_from_variables", "eval"),
    ("code.codeio", "_generate_io_pair", "exec"),
    ("logic.propositional_logic", "parse_expr", "parse_expr"),  # a parser of its own, which evaluates nothing
    ("logic.propositional_logic", "from_string", "parse_expr"),
}


@pytest.fixture(scope="module")
def scorer() -> Iterator[GymScorer]:
    with GymScorer(timeout_s=60.0) as scorer:  # simplifying a wrong integral takes seconds on a busy machine
        yield scorer


def score(scorer: GymScorer, family: str, answer: str) -> float:
    reference, _, _, metadata = ITEMS[family]
    entry = json.dumps({"question": "q", "answer": reference, "metadata": metadata})
    said = scorer.score(family=family, settings="{}", entry=entry, answer=answer)
    assert said.score is not None, said.reason
    return said.score


@pytest.mark.parametrize("family", ITEMS)
def test_an_answer_that_is_a_program_is_wrong_and_changes_no_later_score(
    scorer: GymScorer, family: str, tmp_path: Path
) -> None:
    reference, other, wrong, _ = ITEMS[family]
    mark = tmp_path / "ran"
    for payload in PAYLOADS:
        assert score(scorer, family, payload.replace("{mark}", str(mark))) < 0.1
        assert not mark.exists()
        assert score(scorer, family, reference) == 1.0
        assert other is None or score(scorer, family, other) == 1.0
        assert score(scorer, family, wrong) < 0.1


def test_a_list_written_as_python_still_has_its_part_of_the_score(scorer: GymScorer) -> None:
    assert score(scorer, "string_insertion", "['A', 'B', 'B', 'A']") == 0.1
    assert score(scorer, "n_queens", "[['_', 'Q'], ['Q', '_']]") == 0.5


def test_numbers_that_the_scorer_does_not_count_make_no_sum_right(scorer: GymScorer) -> None:
    # 3, 5 and 7 are all the numbers that countdown sees here, and the value is 36
    for trick in ("0x24 + 0x0*(3 + 5 + 7)", "36.0e0 + 0e0*(3 + 5 + 7)", "floor(exp(3)) + 5 + 7 + Integer(0x4)"):
        assert score(scorer, "countdown", trick) < 0.1


def test_an_integral_that_is_merely_written_down_is_not_solved(scorer: GymScorer) -> None:
    assert score(scorer, "simple_integration", "Integral(x, x)") == 0.0
    assert score(scorer, "simple_integration", "integrate(x, x)") == 0.0


def test_a_reference_of_the_package_is_read_whatever_it_says(scorer: GymScorer) -> None:
    entry = {"question": "q", "answer": "Integral(x, x) + C", "metadata": {"variable": "x", "integrand": "x"}}
    asked = {"family": "intermediate_integration", "settings": "{}", "entry": json.dumps(entry)}
    assert scorer.score(**asked, answer=entry["answer"]).score == 1.0
    assert scorer.score(**asked, answer="C + Integral(x, x)").score == 0.0


def test_the_child_is_told_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    child = "import json, os; print('{}', flush=True); input(); print(json.dumps({'error': ' '.join(os.environ)}))"
    with GymScorer(command=[sys.executable, "-c", child]) as scorer:
        reason = scorer.score(family="f", settings="{}", entry="{}", answer="a").reason
    assert "PATH" in reason
    assert "SOME_API_KEY" not in reason


@pytest.mark.parametrize("text", ["1 + 2", "(3*4)/2 - 1", "", " 7\n"])
def test_sums_of_whole_numbers_are_arithmetic(text: str) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize("text", ["2**3", "7//2", "1.5", "0x10", "1e3", "1_0", "4!", "x", "2 % 3", "(1, 2)[0]", "٣"])
def test_nothing_else_is_arithmetic(text: str) -> None:
    assert not is_arithmetic(text)


@pytest.mark.parametrize("text", ["3*x**2 - 1/4", "exp(-x)*sin(2*X) + C", "log(x, 2)", "c_1 + 1.5e-3", "sqrt(x) + .5"])
def test_a_formula_may_call_functions_and_name_variables(text: str) -> None:
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "x.subs",
        "1..real",
        "1.real",
        "__import__",
        "_x",
        "x__y",
        "'x'",
        'f"{x}"',
        "eval",
        "lambda",
        "getattr(x, y)",
        "S(x)",
        "Integral(x, x)",
        "x[0]",
        "x = 1",
        "x; y",
        "ｅval(x)",
        "x@y",
        "x if y else z",
        "sin(x, evaluate=False)",
    ],
)
def test_no_formula_reaches_what_python_or_sympy_know(text: str) -> None:
    assert not is_formula(text)


def test_a_variable_may_have_a_name_that_sympy_knows() -> None:
    assert not is_formula("Q + 1")
    assert is_formula("Q + 1", {"Q": None})


def test_no_family_of_the_installed_package_evaluates_an_answer_that_nobody_checks() -> None:
    found = evaluations(Path(reasoning_gym.__file__).parent)
    assert found == LITERAL | ARITHMETIC | FORMULAS | TEXT_OF_ITS_OWN


def evaluations(root: Path) -> set[tuple[str, str, str]]:
    found = set()
    for path in root.rglob("*.py"):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found |= {(name, function, what) for function, what in calls(ast.parse(path.read_text("utf-8")), "")}
    return found


def calls(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and (what := called(child.func)) in NAMES:
            yield function, what
        inner = child.name if isinstance(child, ast.FunctionDef) else function
        yield from calls(child, inner)


def called(function: ast.expr) -> str:
    """The name a call goes by; of a method none, but for those of modules that evaluate text."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.attr if function.value.id in {"ast", "builtins", "pickle", "sp", "sympy"} else ""
    return ""
