"""Views of tokens, and the one rule that puts each token into exactly one category.

    todo     may be claimed: lock and done are both 0
    locked   somebody works on it
    done     finished, with exit code (or `output`) 0, or none that is a number
    error    finished with another code, or its status is "error", or PiCaS has marked it (99, 99)

The rule is there twice, as JavaScript for the server and as `category`; a test compares them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TODO, LOCKED, DONE, ERROR = "todo", "locked", "done", "error"
CATEGORIES = (TODO, LOCKED, DONE, ERROR)
OVERVIEW = "overview"

_INTEGER = re.compile(r"\s*[+-]?\d+")

_CATEGORY = """
  var number = function (value) {
    var found = typeof value === "string" ? parseInt(value, 10) : value;
    return typeof found === "number" && !isNaN(found) ? found : 0;
  };
  var category = function (doc) {
    var lock = number(doc.lock), done = number(doc.done), code = doc.exit_code;
    if (lock === 0 && done === 0) { return "todo"; }
    if (code === undefined || code === null || code === "") { code = doc.output; }
    if (doc.status === "error" || (lock === 99 && done === 99)) { return "error"; }
    if (done !== 0) { return number(code) === 0 ? "done" : "error"; }
    return "locked";
  };
"""


def category(token: Mapping[str, Any]) -> str:
    """Which of the four a token is in."""
    lock, done, code = _number(token.get("lock")), _number(token.get("done")), token.get("exit_code")
    if lock == 0 and done == 0:
        return TODO
    if code is None or code == "":
        code = token.get("output")
    if token.get("status") == "error" or (lock == 99 and done == 99):
        return ERROR
    if done != 0:
        return DONE if _number(code) == 0 else ERROR
    return LOCKED


def _number(value: Any) -> float:
    if isinstance(value, str):
        found = _INTEGER.match(value)
        return int(found[0]) if found else 0
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


@dataclass(frozen=True)
class TokenView:
    """A view of the tokens of one type for which a condition holds, in JavaScript: `doc.lock > 0`."""

    name: str
    condition: str
    emit_values: tuple[str, str] = ("doc._id", "doc._id")

    def code(self, token_type: str) -> dict[str, str]:
        """The view as a design document has it."""
        emits = f"emit({self.emit_values[0]}, {self.emit_values[1]});"
        return {"map": _of_type(token_type, f"if ({self.condition}) {{ {emits} }}")}


@dataclass(frozen=True)
class CategoryView:
    """The tokens of one type in one category."""

    name: str
    category: str
    emit_values: tuple[str, str] = ("doc._id", "doc.status")

    def code(self, token_type: str) -> dict[str, str]:
        """The view as a design document has it."""
        emits = f"emit({self.emit_values[0]}, {self.emit_values[1]});"
        test = f"if (category(doc) === {json.dumps(self.category)}) {{ {emits} }}"
        return {"map": _of_type(token_type, _CATEGORY + test)}


@dataclass(frozen=True)
class Overview:
    """How many tokens of one type are in each category; with `detailed`, what those do that are locked."""

    name: str = OVERVIEW
    detailed: bool = False

    def code(self, token_type: str) -> dict[str, str]:
        """The view as a design document has it."""
        text = _CATEGORY + "var found = category(doc);\n"
        if self.detailed:
            text += """  if (found === "locked") {
    found = doc.status === "downloading" ? "downloading" : doc.status === "launched" ? "waiting" : "running";
  }
"""
        return {"map": _of_type(token_type, text + "  emit(found, 1);"), "reduce": "_sum"}


AnyView = TokenView | CategoryView | Overview

STANDARD: tuple[AnyView, ...] = (
    CategoryView(TODO, TODO, ("doc._id", "doc._id")),
    CategoryView(LOCKED, LOCKED),
    CategoryView(DONE, DONE),
    CategoryView(ERROR, ERROR),
    Overview(),
)


def _of_type(token_type: str, body: str) -> str:
    return (
        f"function (doc) {{\n  if (doc.type !== {json.dumps(token_type)}) {{ return; }}\n  {body.strip()}\n}}"
    )
