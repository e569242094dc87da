"""What goes wrong with a file of a job."""

from __future__ import annotations

from mpiframe.errors import MpiframeError

_LONGEST = 400


class FormatError(MpiframeError, ValueError):
    """A file is not what its name says, or cannot be written with these values.

    The text names the file and the place, what was expected and what was found.

    Attributes
    ----------
    path: the file ("" where the text came from elsewhere).
    line: counted from 1; 0 where the place is no line.
    """

    def __init__(self, problem: str, path: str = "", line: int = 0) -> None:
        if len(problem) > _LONGEST:  # what is quoted of a file may be no text at all
            problem = f"{problem[: _LONGEST // 2]} ... {problem[-_LONGEST // 2 :]}"
        super().__init__(problem, path, line)  # all in args, so that it can be pickled
        self.problem = problem
        self.path = path
        self.line = line

    def __str__(self) -> str:
        place = ":".join([self.path, *([str(self.line)] if self.line else [])]).strip(":")
        return f"{place}: {self.problem}" if place else self.problem
