"""Does a program pass its tests? It is run by a `Runner`, and what it printed is looked at out here.

Cases (input and what must be printed) cannot be talked through: the expected output never enters the sandbox. A test
that imports the program shares a process with it; it counts as passed when it ran to its end, which a program that
exits early does not reach.

Not covered, since the program can do in that process whatever the test can: it may search it for the word that says
so, put something of its own in the place of `unittest` or `assertEqual`, or return objects that are equal to
everything. A generation that is trained on what passes learns such ways where there are any. Where that matters, give
cases instead.
"""

from __future__ import annotations

import re
import secrets

from evolve.judging.runner import IsolationError, Ran, Runner
from evolve.problems.types import Case, UnitTestsRule

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def passes(rule: UnitTestsRule, answer: str, runner: Runner) -> tuple[bool | None, str]:
    """(whether the program passes, why not); None: nobody knows, for the reason.

    A sandbox that does not come up this time says nothing of the program.
    """
    program = program_in(answer)
    if not program.strip():
        return False, "there is no program"
    try:
        return _passes(rule, program, runner)
    except IsolationError as error:
        return None, str(error)


def _passes(rule: UnitTestsRule, program: str, runner: Runner) -> tuple[bool | None, str]:
    if rule.test:
        return _passes_test(rule, program, runner)
    for number, case in enumerate(rule.cases, start=1):
        failure = _fails_case(rule, case, program, runner)
        if failure:
            return False, f"case {number}: {failure}"
    return (True, "") if rule.cases else (None, "there is nothing to test the program with")


def program_in(answer: str) -> str:
    """The last fenced block of an answer, or all of it."""
    blocks = _FENCED.findall(answer)
    return str(blocks[-1]) if blocks else answer


def same_output(printed: str, expected: str) -> bool:
    """Equal line by line, apart from white space at the ends of lines and empty lines at the end."""
    return _lines(printed) == _lines(expected)


def _fails_case(rule: UnitTestsRule, case: Case, program: str, runner: Runner) -> str:
    ran = runner.run({"solution.py": program}, ["solution.py"], case.input, rule.verifier.limits)
    if ran.exit_code != 0:
        return _ending(ran)
    return "" if same_output(ran.stdout, case.output) else "it printed something else"


def _passes_test(rule: UnitTestsRule, program: str, runner: Runner) -> tuple[bool | None, str]:
    word = secrets.token_hex(16)
    files = {"solution.py": program, "test_solution.py": rule.test, "harness.py": HARNESS}
    ran = runner.run(files, ["harness.py"], word + "\n", rule.verifier.limits)
    if ran.exit_code == 0 and ran.stdout.rstrip("\n").endswith(word):
        return True, ""
    return False, _ending(ran)


def _ending(ran: Ran) -> str:
    if ran.stopped:
        return f"it was stopped, its {ran.stopped} was used up"
    last = (ran.stderr.strip().splitlines() or [""])[-1]
    return f"it ended with status {ran.exit_code}{': ' + last[:200] if last else ''}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


HARNESS = """
import sys
import unittest

def main():
    word = sys.stdin.readline().strip()
    sys.path.insert(0, "/work")
    with open("/work/test_solution.py", encoding="utf-8") as file:
        source = file.read()
    scope = {"__name__": "test_solution"}
    try:
        exec(compile(source, "test_solution.py", "exec"), scope)
        for name, value in list(scope.items()):
            if isinstance(value, type) and issubclass(value, unittest.TestCase):
                result = unittest.TestResult()
                unittest.defaultTestLoader.loadTestsFromTestCase(value).run(result)
                if not result.wasSuccessful():
                    raise AssertionError((result.failures + result.errors)[0][1])
            elif name.startswith("test") and callable(value):
                value()
    except SystemExit:
        raise AssertionError("it ended the test") from None
    print()
    print(word)

main()
"""
