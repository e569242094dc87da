"""Cells: several statements of which the last may be an expression, whose value is the cell's."""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
from typing import Any

_numbers = itertools.count(1)  # on each server
_KEPT = 1000  # cells whose source lines tracebacks can still show


def as_command(source: str) -> Any:
    """What to push so that the value of the last expression comes back: the source itself, or a Cell.

    Raises SyntaxError.
    """
    statements = ast.parse(source, "<cell>").body
    if len(statements) > 1 and isinstance(statements[-1], ast.Expr):
        return Cell(source)
    return source


class Cell:
    """A callable command that runs in the server's user namespace."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.__qualname__ = source  # how requests are called

    def __call__(self) -> Any:
        """Run it here; the value of its last expression."""
        number = next(_numbers)
        filename = f"<cell {number}>"
        linecache.cache[filename] = (len(self.source), None, self.source.splitlines(True), filename)
        linecache.cache.pop(f"<cell {number - _KEPT}>", None)
        tree = ast.parse(self.source, filename)
        last = tree.body.pop()
        assert isinstance(last, ast.Expr)
        names = vars(sys.modules["__main__"])
        exec(compile(tree, filename, "exec", dont_inherit=True), names)
        return eval(compile(ast.Expression(last.value), filename, "eval", dont_inherit=True), names)
