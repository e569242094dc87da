"""What all text files of a job share: reading, writing, and numbers."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from typing import TypeVar

from mpiframe.plugins.difx.replacing import replacing

_T = TypeVar("_T", bound="TextFile")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


class TextFile(ABC):
    """A text file of a job, as values.

    What was read is written byte for byte as it was, but for what was changed in between.
    """

    @classmethod
    @abstractmethod
    def parse(cls: type[_T], text: str, path: str = "") -> _T:
        """The values in `text`; `path` is for errors only. Raises FormatError."""

    @abstractmethod
    def text(self) -> str:
        """The content of the file. Raises FormatError where the values contradict each other."""

    @classmethod
    def read(cls: type[_T], path: str | os.PathLike[str]) -> _T:
        """The values in a file. Raises FormatError, and OSError where it cannot be read."""
        # Comments may be in any encoding: what is not UTF-8 has to come back as it was.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return cls.parse(file.read(), os.fspath(path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file: all of it, or, where that fails (OSError, FormatError), nothing."""
        content = self.text().encode("utf-8", errors="surrogateescape")
        with replacing(path) as file:
            file.write(content)


def lines_of(text: str) -> list[str]:
    """The lines without their ends; a return before the end of a line stays with it."""
    return text.removesuffix("\n").split("\n") if text else []


def integer(text: str) -> int:
    """A decimal integer. Raises ValueError."""
    if not _INTEGER.fullmatch(text):
        raise ValueError("an integer")
    return int(text)


def number(text: str) -> float:
    """A number. Raises ValueError; what Python alone takes for one is none."""
    try:
        if "_" not in text and text.isascii():
            return float(text)
    except ValueError:
        pass
    raise ValueError("a number")


def flag(text: str) -> bool:
    """TRUE or FALSE, of which mpifxcorr reads the first letter. Raises ValueError."""
    if text.upper() in ("TRUE", "T"):
        return True
    if text.upper() in ("FALSE", "F"):
        return False
    raise ValueError("TRUE or FALSE")


def single_line(text: str) -> str:
    """The text, if it fits on a line of a file. Raises ValueError."""
    if "\n" in text or "\r" in text:
        raise ValueError("text without line ends")
    return text
