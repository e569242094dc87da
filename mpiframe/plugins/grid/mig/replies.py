"""What a MiG server answers: `Exit code: N Description ...` and text; a Python literal after an upload.

Nothing of it is ever run.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from mpiframe.plugins.grid.mig.errors import MigServerError

LIMIT = 1 << 20
"""The most bytes of a reply that is a literal."""
_CODE = re.compile(r"\s*Exit code:\s*(-?\d+)\s*(?:Description\s*)?(.*)")
_HEAD = re.compile(rb"\A(?:Title: [^\n]*\n)?(?:\n___[^\n]*___\n\n)?")
_TITLES = re.compile(r"Title: .*|___.*___")

MEANINGS = {
    1: "an error",
    100: "the request was wrong",
    101: "there is no such job",
    102: "an argument was wrong",
    103: "no path was given",
    104: "the certificate was not accepted",
    105: "file not found",
    200: "the server failed",
    201: "the user could not be made",
    202: "the server made a reply that is not valid",
}


def parse(content: bytes) -> tuple[int, str, bytes]:
    """(exit code, its description, the rest). Raises MigServerError for what is no reply."""
    first, _, rest = content.partition(b"\n")
    found = _CODE.match(first.decode("utf-8", "replace"))
    if found is None:
        shown = content[:200].decode("utf-8", "replace")
        raise MigServerError(f"what answered is no MiG server, or one that failed: {shown!r}")
    return int(found.group(1)), found.group(2).strip(), rest


def without_titles(rest: bytes) -> bytes:
    """A reply without the page's titles and headings, and their empty lines, which come before the rest."""
    return _HEAD.sub(b"", rest, count=1)


def message(rest: bytes) -> str:
    """What a reply says for people: its error lines, else all of it, in one line."""
    lines = [line.strip() for line in rest.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not _TITLES.fullmatch(line)]
    errors = [line.strip("* ") for line in lines if line.startswith("**")]
    return "; ".join(errors or lines)[:500]


def job_fields(rest: bytes) -> dict[str, str]:
    """`Status: QUEUED` and so on of one job, as STATUS; `Job Id` as ID too."""
    found: dict[str, str] = {}
    for line in rest.decode("utf-8", "replace").splitlines():
        name, colon, value = line.strip().partition(": ")
        if colon and not _TITLES.fullmatch(line.strip()):
            found.setdefault(name.upper(), value.strip())
    if "JOB ID" in found:
        found["ID"] = found["JOB ID"]
    return found


def submitted(content: bytes) -> list[dict[str, Any]]:
    """What became of an upload: dictionaries of the server's. Raises MigServerError."""
    text = content[: LIMIT + 1].decode("utf-8", "replace")
    first, _, rest = text.partition("\n")
    if not first.strip().isdigit():
        raise MigServerError(f"the server's answer to an upload cannot be read: {text[:200]!r}")
    code = int(first)
    if code:
        raise MigServerError(f"the server refused an upload: {rest.strip()[:500]}", code)
    body = rest.strip()
    if not body.startswith("["):
        return []
    try:
        found = ast.literal_eval(body) if len(text) <= LIMIT else None
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise MigServerError(f"the server's answer to an upload cannot be read: {body[:200]!r}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise MigServerError(f"the server's answer to an upload cannot be read: {body[:200]!r}")
    return found
