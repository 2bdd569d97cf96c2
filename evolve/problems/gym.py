"""Problems from reasoning-gym: checked settings, canonical operands, and a draw that never repeats an item."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from evolve.problems.config import GymFamily, GymProblems
from evolve.problems.splits import Split, SplitSizes, derived_seed, is_reserved, normalised_text, split_of
from evolve.problems.types import FamilyDraw, Problem, ProblemsError, ReasoningGymVerifier, Skipped
from memory.types import content_hash
from mesh.types import Demonstration, Task

_VIRTUAL_SIZE = 1_000_000_000  # families generate item i from seed + i alone, so size costs nothing
_LISTED_SIZES = {"acre": 2_000, "gsm_symbolic": 100_000, "list_functions": 100_000}
"""Families that make a list as long as their size when they are opened: a billion would fill the memory."""
_RESERVED_SETTINGS = ("seed", "size")
_TERM = re.compile(r"([+-]?)\s*(\d+(?:\.\d+)?)")


def open_family(family: GymFamily, seed: int) -> Any:
    """The family's dataset under `seed`.

    Raises:
        ProblemsError: no such family or setting (the nearest one is named), or a value the family refuses.
    """
    if family.name not in DATASETS:
        raise ProblemsError(f"expected a reasoning-gym family, got '{family.name}'; {_nearest(family.name, DATASETS)}")
    known = [field.name for field in dataclasses.fields(DATASETS[family.name][1])]
    allowed = [name for name in known if name not in _RESERVED_SETTINGS]
    for setting in family.settings:
        if setting not in allowed:
            raise ProblemsError(f"family '{family.name}' has no setting '{setting}'; {_nearest(setting, allowed)}")
    size = _LISTED_SIZES.get(family.name, _VIRTUAL_SIZE)
    try:
        return reasoning_gym.create_dataset(family.name, seed=seed, size=size, **family.settings)
    except (AssertionError, ValueError, TypeError, KeyError) as error:
        raise ProblemsError(f"family '{family.name}' refuses its settings {family.settings}: {error}") from error


def _sum_terms(metadata: Mapping[str, Any]) -> str:
    return " ".join(sorted(sign + number for sign, number in _signed_terms(metadata["expression"])))


def _factors(metadata: Mapping[str, Any]) -> str:
    return "*".join(sorted(factor.strip() for factor in metadata["expression"].split("*")))


def _numbers(metadata: Mapping[str, Any]) -> str:
    return " ".join(str(number) for number in sorted(metadata["numbers"]))


def _sorted_numbers(metadata: Mapping[str, Any]) -> str:
    numbers = sorted(float(number) for number in metadata["original_numbers"])
    return f"{metadata['direction']} {' '.join(map(str, numbers))}"


def _sorted_words(metadata: Mapping[str, Any]) -> str:
    return f"{metadata['direction']} {' '.join(sorted(metadata['transformed_words']))}"


def _letters_in(metadata: Mapping[str, Any]) -> str:
    return f"{metadata['target_letter']} in {' '.join(sorted(word.casefold() for word in metadata['span']))}"


def _animals(metadata: Mapping[str, Any]) -> str:
    return " ".join(f"{count} {animal}" for animal, count in sorted(metadata["animals"].items()))


def _fraction(metadata: Mapping[str, Any]) -> str:
    return f"{metadata['numerator']}/{metadata['denominator']}"  # however it is typeset


def _candidates(metadata: Mapping[str, Any]) -> str:
    return f"{metadata['size']} {' '.join(map(str, sorted(metadata['candidates'])))}"  # however they are written


OPERANDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "chain_sum": _sum_terms,
    "decimal_chain_sum": _sum_terms,
    "products": _factors,
    "gcd": _numbers,
    "lcm": _numbers,
    "countdown": lambda metadata: f"{metadata['target']} from {_numbers(metadata)}",
    "number_sorting": _sorted_numbers,
    "word_sorting": _sorted_words,
    "group_anagrams": lambda metadata: " ".join(sorted(metadata["words"])),
    "palindrome_generation": lambda metadata: "".join(sorted(metadata["letters"])),
    "letter_counting": _letters_in,
    "leg_counting": _animals,
    "fraction_simplification": _fraction,
    "number_format": _candidates,
}
"""What makes two items of a family the same question, whatever their order or wording; from an entry's metadata."""


def operand_key(name: str, entry: Mapping[str, Any]) -> str:
    """The canonical key of a generated entry: equal for two items that ask the same thing.

    Order of terms, factors and list items does not count where the family's answer does not depend on it; for a
    family without a rule here the normalised question text is the key, with every digit kept.
    """
    metadata = entry["metadata"]
    rule = OPERANDS.get(name)
    if rule is not None:
        operands = rule(metadata)
    elif isinstance(metadata.get("expression"), str):
        operands = "".join(metadata["expression"].split())
    else:
        operands = normalised_text(entry["question"])
    return f"{name}|{operands}"


def distinct_items(family: GymFamily, at_least: int, *, seed: int = 0) -> int:
    """How many distinct items the family shows: counting stops at `at_least`, or after four times as many draws.

    A lower bound: a family with twice `at_least` items is told apart from a smaller one, exact size is not estimated.
    """
    dataset = open_family(family, derived_seed("distinct", seed, family.name))
    seen: set[str] = set()
    for index in range(min(4 * at_least, len(dataset))):
        if len(seen) >= at_least:
            break
        seen.add(operand_key(family.name, dataset[index]))
    return len(seen)


def demonstrations_of(family: GymFamily, config: GymProblems) -> tuple[Demonstration, ...]:
    """Worked examples from the reserved share, the same for every split and every seed of the run.

    Raises:
        ProblemsError: the family is too small to give as many.
    """
    if family.num_demonstrations == 0:
        return ()
    dataset = open_family(family, derived_seed("demonstrations", config.split_seed, family.type))
    found: dict[str, Demonstration] = {}
    for index in range(min(int(200 * family.num_demonstrations / config.demonstration_share), len(dataset))):
        entry = dataset[index]
        key = operand_key(family.name, entry)
        usable = isinstance(entry["answer"], str) and entry["answer"].strip() and key not in found
        if usable and is_reserved(key, config.split_seed, config.demonstration_share):
            found[key] = Demonstration(question=entry["question"].strip(), answer=entry["answer"].strip())
            if len(found) == family.num_demonstrations:
                return tuple(found.values())
    raise ProblemsError(
        f"expected {family.num_demonstrations} demonstrations of '{family.type}', found {len(found)}; "
        "lower num_demonstrations, raise demonstration_share or widen the family's settings"
    )


def draw_family(
    family: GymFamily,
    config: GymProblems,
    seeds: Mapping[Split, int],
    taken: set[str],
    num_distinct: int | None,
    demonstrations: tuple[Demonstration, ...] | None = None,
) -> tuple[dict[Split, list[Problem]], FamilyDraw, list[Skipped]]:
    """Fresh problems of one family for every split; keys in `taken` are passed over, keys used are added to it.

    Each distinct seed is one stream of items; splits with the same seed share the stream, so they cost one pass.
    `demonstrations` None: the family's own.
    """
    if demonstrations is None:
        demonstrations = demonstrations_of(family, config)
    drawn: dict[Split, list[Problem]] = {split: [] for split in Split}
    skipped: list[Skipped] = []
    num_draws = num_duplicates = 0
    for seed in sorted({seeds[split] for split in Split}):
        wanted = {s: config.items_per_family.of(s) for s in Split if seeds[s] == seed and config.items_per_family.of(s)}
        for number, entry in _stream(family, config, seed, wanted):
            if all(len(drawn[split]) >= size for split, size in wanted.items()):
                break
            num_draws += 1
            if not isinstance(entry["answer"], str) or not entry["answer"].strip():
                skipped.append(Skipped(where=f"item {number} of {family.type}", reason="it has no reference answer"))
                continue
            key = operand_key(family.name, entry)
            split = _place(key, config)
            if split not in wanted or len(drawn[split]) >= wanted[split]:
                continue
            if key in taken:
                num_duplicates += 1
                continue
            taken.add(key)
            drawn[split].append(_problem(family, entry, key, demonstrations))
    report = FamilyDraw(
        type=family.type,
        asked=config.items_per_family,
        got=SplitSizes(**{split.value: len(items) for split, items in drawn.items()}),
        num_draws=num_draws,
        num_duplicates=num_duplicates,
        num_distinct=num_distinct,
        num_demonstrations=len(demonstrations),
    )
    return drawn, report, skipped


def _place(key: str, config: GymProblems) -> Split | None:
    if is_reserved(key, config.split_seed, config.demonstration_share):
        return None
    return split_of(key, config.split_seed, config.shares)


def _stream(
    family: GymFamily, config: GymProblems, seed: int, wanted: Collection[Split]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Items of one seed, numbered from 1, until a family that could fill the wanted splits would have done so."""
    dataset = open_family(family, derived_seed("items", seed, family.type))
    limit = 0
    for split in wanted:
        if config.shares.of(split) > 0.0:
            limit = max(limit, int(20 * config.items_per_family.of(split) / config.shares.of(split)) + 500)
    for index in range(min(limit, len(dataset))):
        yield index + 1, dataset[index]


def _problem(family: GymFamily, entry: dict[str, Any], key: str, demonstrations: tuple[Demonstration, ...]) -> Problem:
    question, reference = entry["question"].strip(), entry["answer"].strip()
    task = Task(
        id=content_hash({"type": family.type, "key": key, "question": question})[:16],
        question=question,
        type=family.type,
        answer_kind=family.answer_kind,
        instruction=family.instruction,
        demonstrations=demonstrations,
    )
    settings = {name: value for name, value in family.model_dump(mode="json")["settings"].items()}
    # default=str: some families keep dates in their metadata; the verifier audit shows a scorer that minds
    verifier = ReasoningGymVerifier(
        family=family.name,
        settings=json.dumps(settings, sort_keys=True),
        entry=json.dumps(entry, sort_keys=True, default=str, ensure_ascii=False),
    )
    return Problem(task=task, reference=reference, verifier=verifier, key=key, max_tokens=family.max_tokens)


def _signed_terms(expression: str) -> list[tuple[str, str]]:
    return [(sign or "+", number) for sign, number in _TERM.findall(expression)]


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"the nearest known one is '{close[0]}'" if close else "it has none"
