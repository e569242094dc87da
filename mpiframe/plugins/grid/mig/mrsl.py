r"""mRSL, the job descriptions of MiG: read as its server reads them, and written.

    ::EXECUTE::
    ./fit.sh 3 > fit.txt        a keyword, its lines, an empty line; `#` begins a comment, `\#` is one

Written from the server's documentation of the keywords, and tried on descriptions whose verdicts by a real
server are known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mpiframe.plugins.grid.mig.errors import MrslError

Kind = Literal["strings", "pairs", "int", "string", "boolean"]

KEYWORDS: dict[str, tuple[Kind, Any]] = {
    "EXECUTE": ("strings", ()),
    "INPUTFILES": ("strings", ()),
    "OUTPUTFILES": ("strings", ()),
    "EXECUTABLES": ("strings", ()),
    "MOUNT": ("strings", ()),
    "RESOURCE": ("strings", ()),
    "VGRID": ("strings", ()),
    "MAXFILL": ("strings", ()),
    "RUNTIMEENVIRONMENT": ("strings", ()),
    "NOTIFY": ("strings", ()),
    "VERIFYFILES": ("strings", ()),
    "ENVIRONMENT": ("pairs", ()),
    "NODECOUNT": ("int", 1),
    "CPUCOUNT": ("int", 1),
    "CPUTIME": ("int", 600),
    "MEMORY": ("int", 64),
    "DISK": ("int", 0),
    "RETRIES": ("int", None),
    "ARCHITECTURE": ("string", ""),
    "JOBTYPE": ("string", "batch"),
    "JOBNAME": ("string", ""),
    "PROJECT": ("string", ""),
    "PLATFORM": ("string", ""),
    "MAXPRICE": ("string", "0"),
    "SANDBOX": ("boolean", False),
}
"""Each keyword with its kind and default. Seconds (CPUTIME), megabytes (MEMORY), gigabytes (DISK)."""

ARCHITECTURES = [
    "X86", "AMD64", "IA64", "SPARC", "SPARC64", "ITANIUM", "SUN4U", "SPARC-T1", "SPARC-T2", "PS3", "CELL",
]  # fmt: skip
"""Those of a server as it comes; each server may have a list of its own."""
JOB_TYPES = ["batch", "interactive", "bulk"]

_FILES = ("INPUTFILES", "OUTPUTFILES", "EXECUTABLES", "VERIFYFILES")
_ALPHANUMERIC = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_ALLOWED = {"MAXPRICE": _ALPHANUMERIC, "JOBNAME": _ALPHANUMERIC + "-_.+", "PROJECT": _ALPHANUMERIC + "-_.+"}
_TRUTH = {"1": True, "true": True, "0": False, "false": False}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Description:
    """One job's description: `values` has all keywords, `given` those that were named."""

    values: Mapping[str, Any]
    given: frozenset[str] = field(default_factory=frozenset)

    def __getitem__(self, keyword: str) -> Any:
        return self.values[keyword]

    def files(self, keyword: str) -> list[tuple[str, str]]:
        """(source, destination) of each file of a keyword."""
        return [_source_and_destination(line) for line in self.values[keyword]]

    def expanded(self, job_id: str) -> Description:
        """With `+JOBID+` and `+JOBNAME+` replaced, as the server does when a job begins."""
        variables = {"+JOBID+": job_id, "+JOBNAME+": self.values["JOBNAME"]}

        def expand(value: Any) -> Any:
            if isinstance(value, str):
                for name, text in variables.items():
                    value = value.replace(name, text)
                return value
            return tuple(map(expand, value)) if isinstance(value, tuple) else value

        return Description({k: expand(v) for k, v in self.values.items()}, self.given)


def parse(text: str) -> Description:
    """A description. Raises MrslError with every problem it has."""
    description, problems = read(text)
    if problems:
        raise MrslError("the job description cannot be read: " + "; ".join(problems))
    return description


def read(text: str) -> tuple[Description, list[str]]:
    """(what could be read, everything that is wrong with the rest)."""
    values: dict[str, Any] = {keyword: default for keyword, (_, default) in KEYWORDS.items()}
    problems: list[str] = []
    given: set[str] = set()
    for heading, lines in _blocks(text):
        keyword = heading.upper().strip(":")
        if keyword not in KEYWORDS:
            near = difflib.get_close_matches(keyword, KEYWORDS, 1)
            hint = f"; did you mean ::{near[0]}::?" if near else ""
            problems.append(f"unknown keyword: {heading}{hint}")
            continue
        given.add(keyword)
        wrong, value = _value(keyword, lines)
        if wrong:
            problems.append(f"Keyword ::{keyword}::, error: {wrong}. You supplied {lines}")
        if value is not None:
            values[keyword] = values[keyword] + value if isinstance(value, tuple) else value
    problems += _check_files(values)
    if not values["EXECUTE"]:
        problems.append("Keyword ::EXECUTE::, error: at least one command is required")
    return Description(values, frozenset(given)), problems


def write(
    execute: Iterable[str],
    inputs: Iterable[str] = (),
    outputs: Iterable[str] = (),
    executables: Iterable[str] = (),
    specifications: Mapping[str, Any] | None = None,
) -> str:
    """The text of a description. Values of `specifications` are a text, a number, or several of them.

    Raises MrslError for what the server would refuse.
    """
    blocks = {
        "EXECUTE": list(execute),
        "INPUTFILES": list(inputs),
        "OUTPUTFILES": list(outputs),
        "EXECUTABLES": list(executables),
    }
    for name, value in (specifications or {}).items():
        keyword = str(name).upper().strip(":")
        if keyword in blocks:
            blocks[keyword] += _lines(value)
        else:
            blocks[keyword] = _lines(value)
    text = "\n".join(
        f"::{keyword}::\n" + "".join(f"{_escape(line)}\n" for entry in lines for line in _split(entry))
        for keyword, lines in blocks.items()
    )
    parse(text)
    return text


def _blocks(text: str) -> Iterable[tuple[str, list[str]]]:
    """Keywords with their lines. A block goes on to the next empty line, whatever it looks like."""
    lines = iter(text.split("\n"))
    for line in lines:
        heading = line.strip()
        if not heading:
            continue
        block: list[str] = []
        for inner in lines:
            if not inner.strip():
                break
            content = _without_comment(inner.strip()).strip()
            if content:
                block.append(content)
        yield heading, block


def _without_comment(line: str) -> str:
    """A line up to its comment; a backslash keeps `#` and itself from their meaning."""
    found, at = "", 0
    while at < len(line):
        if line[at] == "\\" and line[at + 1 : at + 2] in ("#", "\\"):
            at += 1
        elif line[at] == "#" or (line[at] == "\\" and at + 1 == len(line)):
            break
        found += line[at]
        at += 1
    return found


def _escape(line: str) -> str:
    line = re.sub(r"\\(?=[\\#]|$)", r"\\\\", line)
    return line.replace("#", "\\#")


def _split(entry: str) -> list[str]:
    """The lines of an entry; empty ones would end the block."""
    if "\0" in entry:
        raise MrslError("the job description cannot hold a zero byte")
    return [line.strip() for line in entry.replace("\r", "\n").split("\n") if line.strip()]


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={item}" for name, item in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [str(item) for item in value]
    return [str(value)]


def _value(keyword: str, lines: list[str]) -> tuple[str, Any]:
    """(what is wrong, the value as far as it could be read)."""
    kind, default = KEYWORDS[keyword]
    if kind == "strings":
        return "", tuple(lines)
    if kind == "pairs":
        return _pairs(lines)
    if kind == "int":
        if len(lines) != 1:
            return "requires only a single integer", None
        try:
            return "", int(lines[0])
        except ValueError:
            return "requires an integer", None
    if len(lines) > 1:
        return f"requires only a single {kind}", None
    text = lines[0] if lines else default
    if kind == "boolean":
        if isinstance(text, bool):
            return "", text
        wrong = "" if text.lower() in _TRUTH else "requires a boolean (0, 1, true or false)"
        return wrong, _TRUTH.get(text.lower())
    return _check_text(keyword, text), text


def _pairs(lines: list[str]) -> tuple[str, Any]:
    found = []
    for line in lines:
        name, sign, value = line.partition("=")
        if not sign:
            return "requires one or more key=value rows, and '=' is missing", None
        if not _VARIABLE.fullmatch(name.strip()):
            return f"{name.strip()!r} is no name of a variable", None
        found.append((name.strip(), value.strip()))
    return "", tuple(found)


def _check_text(keyword: str, text: str) -> str:
    if keyword == "ARCHITECTURE" and text and text not in ARCHITECTURES:
        return f"specified architecture not valid, should be {ARCHITECTURES}"
    if keyword == "JOBTYPE" and text not in JOB_TYPES:
        return f"specified jobtype not valid, should be {JOB_TYPES}"
    allowed = _ALLOWED.get(keyword)
    bad = [letter for letter in text if allowed is not None and letter not in allowed]
    if bad:
        return f"invalid data value: found invalid character: {bad[0]!r} (allowed: {allowed})"
    return ""


def _check_files(values: Mapping[str, Any]) -> list[str]:
    return [
        f"Keyword ::{keyword}::, error: entries must contain 1 or 2 space-separated items, not {line!r}"
        for keyword in _FILES
        for line in values[keyword]
        if len(line.split()) > 2
    ]


def _source_and_destination(line: str) -> tuple[str, str]:
    words = line.split()
    source = words[0]
    return source, words[1] if len(words) > 1 else (source.rsplit("/", 1)[-1] if "://" in source else source)
