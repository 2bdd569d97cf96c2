"""The normal form of an error: what stays the same between two occurrences of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memory.tokens import folded, unified

MAX_ERROR_CHARS = 16_000
"""Of a longer error the first and the last half of so many characters are read: reports put the cause at one end."""

MAX_ERROR_LINES = 40

_ANSI = re.compile(r"\x1b\[[0-9;]{0,20}[A-Za-z]")
_TRACEBACK = "traceback (most recent call last)"
_PYTHON_FRAME = re.compile(r'File "[^"\n]{0,1000}", line [0-9]{1,9}(?:, in (?P<function>[^\n]{1,200}))?', re.IGNORECASE)
_FRAME = re.compile(
    r"""(?:
      at\ (?P<at>[\w.$<>\[\]/]{1,200})\s?\(          # Java, JavaScript, C#
    | at\ \S{1,300}:[0-9]{1,9}\)?$
    | \#[0-9]{1,4}\ +(?:0x[0-9a-fA-F]{1,16}\ in\ )?(?P<gdb>[\w:~]{1,200})
    | [0-9]{1,4}:\ +(?:0x[0-9a-fA-F]{1,16}\ -\ )?(?P<rust>\w{1,100}::[\w:]{1,200})
    )""",
    re.VERBOSE | re.IGNORECASE,
)
# Excerpts of the source, carets below it, and advice: they repeat what the message says.
_ASIDE = re.compile(r"(?:[0-9]{0,7}\s?\||-->|[~^|\s-]{1,200}$|\.\.\. [0-9]{1,6} more|stack backtrace:|note: run with)")

_SUBJECT_BEFORE = (
    "named", "name", "attribute", "argument", "module", "package", "command", "symbol", "function", "method", "column",
    "table", "relation", "type", "crate", "trait", "variable", "feature", "option", "extension", "library", "to",
    "import",
)  # fmt: skip
_SUBJECT_AFTER = ("object", "undeclared", "is not defined", "was not declared", "not found", "is not recognized")
_EXTENSIONS = (
    "py|pyx|pyc|c|cc|cpp|cxx|cu|h|hpp|java|kt|scala|rs|js|mjs|ts|tsx|jsx|go|rb|php|cs|swift|sh|sql|json|jsonl|ya?ml|"
    "toml|ini|cfg|conf|txt|csv|tsv|log|xml|html|md|so|dll|exe|jar|whl|tar|gz|zip|bin|pt|pth|safetensors|gguf|parquet|db|lock"
)
_UNITS_OF_ERRORS = r"(?:[kmgt]i?b|b|bytes?|ns|[uµμ]s|ms|s|secs?|seconds?|m|mins?|minutes?|h|hours?|%)"
_MASKED = re.compile(
    rf"""
      (?P<mask><(?:n|id|hex|time|url|q|path|\.[a-z0-9]{{1,11}})>)
    | (?P<url>\b[a-z][a-z0-9+]{{1,9}}://[^\s"'<>]{{1,2000}})
    | (?P<id>\b[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}\b)
    | (?P<time>\b[0-9]{{4}}[-/][0-9]{{2}}[-/][0-9]{{2}}(?:[t\ ][0-9]{{2}}:[0-9]{{2}}(?::[0-9]{{2}})?(?:[.,][0-9]{{1,9}})?(?:z|[+-][0-9]{{2}}:?[0-9]{{2}})?)?
               |\b[0-9]{{1,2}}:[0-9]{{2}}:[0-9]{{2}}(?:[.,][0-9]{{1,9}})?\b)
    | (?P<kept>\b(?:sqlstate[\[(:=\s]{{0,3}}[0-9a-z]{{5}}\b
               |http(?:/[0-9.]{{1,3}})?[\s:]{{1,2}}[1-5][0-9]{{2}}\b
               |(?:errno|winerror|signal|status(?:\ ?code)?|exit(?:ed)?(?:\ with)?\ (?:code|status)|(?:error|return)?\ ?code|(?:cuda|nccl|mysql)\ error|error)
                   (?:\ |[\[(\#:=]\ ?|\ [=]\ |\ is\ |\ of\ ){{1}}-?(?:0x[0-9a-f]{{1,16}}|[0-9]{{1,9}})(?![\w.]|:[0-9])
               |[1-5][0-9]{{2}}\ (?:client\ error|server\ error|bad|unauthorized|payment|forbidden|not\ found|method\ not|request|conflict|gone|too\ many|unprocessable|internal\ server|not\ implemented|bad\ gateway|service|gateway|moved|found)\b
               |(?!pid|tid|gpu|cpu|run|job|pod|tmp|vm|no|at|id)[a-z]{{1,3}}-?[0-9]{{3,6}}\b
               |(?:pgrst|mongo)-?[0-9]{{2,6}}\b
               |(?:b?float|u?int|bf|fp|utf-?|[iuf])(?:4|8|16|32|64|128)\b))
    | (?P<hex>\b0x[0-9a-f]{{1,64}}\b|\b(?=[a-f]{{0,63}}[0-9])(?=[0-9]{{0,63}}[a-f])[0-9a-f]{{8,128}}\b)
    | (?P<path>(?:\b[a-z]:\\|(?<![\w./\\<])(?:~|\.{{1,2}})?/(?=[\w.@-])|\\\\)[^\s"'`<>:;,()\[\]|]{{1,1000}}(?::[0-9]{{1,9}}){{0,2}}
               |(?<![\w./\\-])[\w.@-]{{1,100}}(?:[/\\][\w.@-]{{1,100}}){{0,20}}\.(?:{_EXTENSIONS})(?!\w|\.\w)(?:\([0-9,]{{1,20}}\)|(?::[0-9]{{1,9}}){{1,2}})?)
    | "(?P<double>[^"]{{0,1000}})"
    | `(?P<back>[^`]{{0,400}})[`']
    | (?<![\w>])'(?P<single>[^']{{0,400}})'(?!\w)
    | (?P<n>(?<![0-9])[-+]?[0-9]+(?:[.,_][0-9]+)*(?:e[-+]?[0-9]{{1,4}})?(?:\ ?{_UNITS_OF_ERRORS}(?!\w))?)
    | (?P<stray>["`]|(?<!\w)'|'(?!\w))
    """,  # noqa: E501
    re.VERBOSE,
)
_LIST_OF_NUMBERS = re.compile(r"<n>(?:[,x×* ]{1,3}<n>){1,64}")
_IDENTIFIER = re.compile(r"[a-z_][\w.:-]{0,80}")
_EXTENSION = re.compile(rf"\.({_EXTENSIONS})(?:\([0-9,]*\)|[:0-9]*)$")


def error_normal_form(text: str) -> str:
    """`text` without what differs between two occurrences of one error; lower case, lines joined by " / ".

    Masked: paths and file names (the extension stays), line numbers, addresses, hashes, ids, times, durations, sizes,
    ports, counts and quoted values. Kept: status and exit codes, errno, error codes (E501, ORA-00942, SQLSTATE), names
    of types such as float32, and quoted names that say which thing is missing ("No module named 'numpy'"). Of a Python
    traceback the last exception and the function it was raised in remain, of other stack traces the innermost frame's
    function. Applying it again changes nothing.
    """
    lines = _error_lines(_both_ends(unified(_both_ends(text))))
    masked = (_masked(line) for line in lines)
    return " / ".join(dict.fromkeys(line for line in masked if line))


def _both_ends(text: str) -> str:
    half = MAX_ERROR_CHARS // 2
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:half]}\n{text[-half:]}"


def _error_lines(text: str) -> list[str]:
    """The lines of an error report that say what went wrong, and the innermost function last."""
    lines = [line for line in _ANSI.sub("", text).splitlines() if line.strip()]
    return _python_error(lines) or _other_error(lines)


def _python_error(lines: Sequence[str]) -> list[str]:
    """[exception and message, "in function"] of the last traceback; [] if there is none."""
    frames = [number for number, line in enumerate(lines) if _PYTHON_FRAME.match(line.strip())]
    if not frames or not any(_TRACEBACK in line.casefold() for line in lines):
        return []
    after = [line for line in lines[frames[-1] + 1 :] if not line.startswith((" ", "\t"))]
    if not after:
        return []
    kind, colon, message = after[0].partition(":")
    frame = _PYTHON_FRAME.match(lines[frames[-1]].strip())
    function = frame["function"] if frame else None
    said = f"{kind.strip().rpartition('.')[2]}{colon}{message}"
    return [said, *after[1:4], *([f"in {function}"] if function else [])]


def _other_error(lines: Sequence[str]) -> list[str]:
    """Every line that is no stack frame and no aside, then the innermost frame's function after the last such line."""
    said: list[str] = []
    function = ""
    for line in lines:
        frame = _FRAME.match(line.strip())
        if frame is None:
            if not _ASIDE.match(line.strip()):
                said.append(line)
                function = ""
        elif not function:
            function = frame[frame.lastgroup] if frame.lastgroup else ""
    if not said:  # a form that reads like a frame
        said, function = list(lines), ""
    return [
        *said[: MAX_ERROR_LINES // 2],
        *said[MAX_ERROR_LINES // 2 :][-MAX_ERROR_LINES // 2 :],
        *([f"in {function}"] if function else []),
    ]


def _masked(line: str) -> str:
    line = folded(line)
    for _ in range(4):  # what a mask leaves side by side can be a number or a path again; it settles at once or in two
        plain = " ".join(_LIST_OF_NUMBERS.sub("<n>", _MASKED.sub(_mask, " ".join(line.split()))).split())
        if plain == line:
            break
        line = plain
    return line


def _mask(match: re.Match[str]) -> str:
    kind = str(match.lastgroup)
    if kind in ("mask", "kept"):
        return match.group()
    if kind in ("double", "back", "single"):
        return _masked_quote(match, match[kind])
    if kind == "stray":
        return " "  # a quotation mark without its partner would pair with one of another line
    if kind == "path":
        extension = _EXTENSION.search(match.group())
        return f"<.{extension[1]}>" if extension else "<path>"
    return f"<{kind}>"


def _masked_quote(match: re.Match[str], value: str) -> str:
    """A quoted value is masked; a quoted name stays where the words beside it say that the error is about that name."""
    if not _IDENTIFIER.fullmatch(value):
        return "<q>"
    before = match.string[max(0, match.start() - 40) : match.start()].split()
    after = match.string[match.end() : match.end() + 40].lstrip()
    about = (before and before[-1].strip(":") in _SUBJECT_BEFORE) or after.startswith(_SUBJECT_AFTER)
    return f"'{value}'" if about else "<q>"
