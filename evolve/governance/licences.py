"""Under which licence a base model is, and what that asks of adapters made for it. Facts for a card, no advice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import Field

from memory.types import Record
from serving.config import EngineSpec, VllmSpec
from serving.models import ModelError, ModelStore

MAX_READ_BYTES = 256 * 1024


class Licence(Record):
    """A licence, as far as it could be told from the files."""

    id: str = Field(description="short name as hubs write it, e.g. 'apache-2.0'; 'unknown' where nothing says")
    name: str = Field(description="its full name, or the word for not knowing")
    found_in: str = Field(default="", description="what said so; empty: nothing")
    duties: tuple[str, ...] = Field(default=(), description="what it asks of those who pass an adapter on")

    @property
    def is_known(self) -> bool:
        """Something said which licence it is."""
        return self.id != "unknown"


class _Terms(Record):
    name: str
    duties: tuple[str, ...]
    marks: tuple[str, ...] = Field(description="words that its text begins with or contains, lower case")


_TERMS: Mapping[str, _Terms] = {
    "apache-2.0": _Terms(
        name="Apache License 2.0",
        duties=("keep its notices and a copy of the licence", "say what was changed"),
        marks=("apache license", "apache-2.0"),
    ),
    "mit": _Terms(name="MIT License", duties=("keep its copyright notice",), marks=("mit license",)),
    "gemma": _Terms(
        name="Gemma Terms of Use",
        duties=(
            "pass its use restrictions on to everybody who gets the adapter",
            "hand out the terms and a notice that the weights are under them",
            "say that the model was changed",
        ),
        marks=("gemma terms of use", "gemma is provided under"),
    ),
    "llama": _Terms(
        name="Llama Community License",
        duties=(
            "show 'Built with Llama' and begin the adapter's name with 'Llama' where that version asks for it",
            "hand out the licence and keep to its acceptable use policy",
            "read what it says about using outputs to improve other models before teaching across families",
        ),
        marks=("llama community license", "llama 2 community license", "meta llama 3"),
    ),
    "cc-by-nc-4.0": _Terms(
        name="CC BY-NC 4.0",
        duties=("no commercial use", "name the authors"),
        marks=("attribution-noncommercial",),
    ),
}  # fmt: skip

UNKNOWN = Licence(
    id="unknown", name="unknown", duties=("find out before you pass an adapter on: no file names a licence",)
)


def licence_of(spec: EngineSpec, store: Path) -> Licence:
    """The licence of an engine's base model, read from the files that travel with it; never from its name.

    A model that is not here, a remote or a scripted one: unknown.
    """
    if not isinstance(spec, VllmSpec):
        return UNKNOWN
    try:
        return licence_in(ModelStore(store).path(spec.model))
    except ModelError:
        return UNKNOWN  # the weights are on the nodes that serve


def licence_in(directory: Path) -> Licence:
    """The licence of the model in a directory: its README's front matter, else the text of its notices."""
    readme = directory / "README.md"
    if readme.is_file():
        declared = _front_matter(_text(readme))
        if declared:
            return _named(declared, readme.name)
    names = sorted(
        path for path in directory.rglob("*") if path.is_file() and _NOTICE.match(path.name) and path != readme
    )
    for path in names:
        text = " ".join(re.sub(r"<[^>]+>", " ", _text(path)).casefold().split())
        for key, terms in _TERMS.items():
            if any(mark in text for mark in terms.marks):
                return _named(key, path.relative_to(directory).as_posix())
    return UNKNOWN


def teaching_note(student: Licence, teachers: Mapping[str, Licence]) -> tuple[str, ...]:
    """What to look at where texts of other models were learned from; `teachers` by family."""
    notes = []
    for family, licence in sorted(teachers.items()):
        if not licence.is_known:
            notes.append(f"it learned from texts of {family}, whose licence is unknown")
        elif licence.id in ("llama", "gemma", "cc-by-nc-4.0") and licence.id != student.id:
            notes.append(f"it learned from texts of {family}, whose terms ({licence.name}) may bind what they teach")
    return tuple(notes)


_NOTICE = re.compile(r"^(licen[cs]e|notice|copying|.*terms).*", re.IGNORECASE)


def _named(declared: str, where: str) -> Licence:
    key = declared.strip().casefold()
    terms = _TERMS.get(key) or next((t for k, t in _TERMS.items() if key.startswith(k)), None)
    if terms is None:
        duties = ("read it before you pass an adapter on: its duties are not in our table",)
        return Licence(id=key, name=declared.strip(), found_in=where, duties=duties)
    return Licence(id=key, name=terms.name, found_in=where, duties=terms.duties)


def _front_matter(text: str) -> str:
    """The `license` of a README's YAML head; empty: none."""
    if not text.startswith("---"):
        return ""
    head = text[3:].split("\n---", 1)[0]
    try:
        data = yaml.safe_load(head)
    except yaml.YAMLError:
        return ""
    if not isinstance(data, dict):
        return ""
    found = data.get("license")
    if found == "other":
        found = data.get("license_name") or found
    return found if isinstance(found, str) else ""


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_READ_BYTES).decode("utf-8", "replace")
