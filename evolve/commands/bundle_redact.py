"""Takes text, secrets and names of people and teams out of plain data, before it goes into a support archive."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evolve.commands.bundle_words import told

TEXT_KEYS = frozenset({
    "persona", "instruction", "instructions", "stop", "stops", "choices", "pattern", "json_schema", "answer_schema",
    "task_tags", "skills",
    "project", "reads", "default_type", "label", "settings", "reason", "why_frozen", "namespace", "command", "python",
    "approvers", "reporters", "trackio", "mlflow",
})  # fmt: skip
"""Settings and fields that hold words of the operator's own."""
MESSAGE_KEYS = frozenset({"trouble", "troubles", "problem", "advice"})
"""Fields that hold messages, which quote what they were given."""
TEAM_KEYS = frozenset({"team"})

_SECRET_KEY = re.compile(
    r"(^|_)(key|token|secret|password|passwd|credential|authorization|cookie)s?(_|$)", re.IGNORECASE
)
_SECRET_ENV = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_COUNTS = re.compile(r"^(num|max|min|prompt|output|trained|talk|keep|require)_|_tokens$|^tokens$", re.IGNORECASE)
_SHAPES = re.compile(
    r"\bem_[0-9a-f]{4,}_[\w-]{8,}|\bhf_\w{16,}|\bsk-[\w-]{16,}|\bgh[pousr]_\w{16,}|\bxox[abpr]-[\w-]{10,}"
    r"|\bAKIA[0-9A-Z]{12,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(?i:\b(?:bearer|basic)\s+[\w.~+/=-]{8,})"
    r"|-----BEGIN [A-Z ]+-----[\s\S]*?(?:-----END [A-Z ]+-----|$)"
)
_URL_SECRET = re.compile(r"(://)[^/\s\"'@]+@")
_URL_QUERY = re.compile(r"(\w://[^\s\"'?]*)\?[^\s\"']*")
_HOME = re.compile(r"(/home|/Users)/[^/\s\"':,]+")
_SHORTEST_SECRET = 6


class Pseudonyms:
    """Stands numbers in for names, the same one for the same name all through one archive."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def of(self, kind: str, name: str) -> str:
        """`kind` and a number; "" stays "", nobody."""
        if not name:
            return ""
        number = 1 + sum(known == kind for known, _ in self._known)
        return self._known.setdefault((kind, name), f"{kind}-{number}")


def removed(text: str) -> str:
    """What stands in the place of a text."""
    return f"[removed, {len(text)} characters]"


def message(text: str) -> str:
    """A message without what it quotes."""
    return told(text) or (removed(text) if text else "")


def digest(text: str) -> str:
    """A short hash, by which who has the text knows it again."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def plain(value: Any, names: Pseudonyms, key: str = "") -> Any:
    """Plain JSON data of a record of this program's, with texts, messages, secrets and teams replaced.

    The names of fields decide, so it is for records with fields of their own, never for data of somebody else's.
    """
    if isinstance(value, Mapping) and key in TEXT_KEYS:
        return f"[removed, {len(value)} settings]"
    if isinstance(value, Mapping):
        return {str(name): plain(item, names, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, names, key) for item in value]
    if not isinstance(value, str):
        return value
    if key in TEAM_KEYS:
        return names.of("team", value)
    if key in TEXT_KEYS:
        return removed(value) if value else value
    if key in MESSAGE_KEYS:
        return message(value)
    if key.endswith("_env"):
        return "[name of an environment variable]"
    if _SECRET_KEY.search(key) and not _COUNTS.search(key):
        return "[secret]"
    return value


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The last net over everything that goes in: what looks like a secret, or is the value of a secret variable.

    `environment`: variables whose values are looked for; None: those of this process.
    """
    variables = os.environ if environment is None else environment
    for secret in _secrets_in(variables):
        text = text.replace(secret, "[secret]")
    text = _URL_QUERY.sub(r"\1?[removed]", _URL_SECRET.sub(r"\1[secret]@", _SHAPES.sub("[secret]", text)))
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?=[/\s\"':,]|$)", "~", text)
    return _HOME.sub(r"\1/user", text)


def _secrets_in(environment: Mapping[str, str]) -> Iterable[str]:
    """Longest first, so that no secret is left in pieces by one that it contains. Paths to secrets are none."""
    found = {
        value
        for name, value in environment.items()
        if _SECRET_ENV.search(name) and len(value) >= _SHORTEST_SECRET and not value.startswith("/")
    }
    return sorted(found, key=len, reverse=True)
