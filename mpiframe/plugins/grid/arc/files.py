"""Files of jobs: sent and fetched in pieces, compared in size, nothing half written left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

import httpx

from mpiframe.plugins.grid.arc.connection import Connection, read_json
from mpiframe.plugins.grid.arc.description import check_name
from mpiframe.plugins.grid.arc.errors import (
    ArcDown,
    ArcError,
    ArcRefused,
    DescriptionError,
    NoSuchFile,
    TransferError,
)
from mpiframe.plugins.grid.arc.states import listed

PIECE_BYTES = 1 << 20
_DEEPEST = 100
_RESUMES = 5
Progress = Callable[[str, int, int], None]
"""Called with a name, the bytes so far and the bytes of the whole file (-1: not known)."""


def path_of(job: str, name: str = "", kind: str = "session") -> str:
    """Of a job's file, below the version. Raises NoSuchFile for what can be none."""
    try:
        name = check_name(name) if name else ""
    except DescriptionError as error:
        raise NoSuchFile(f"job {job}: {error}") from error
    return f"/jobs/{quote(job, safe='')}/{kind}/{quote(name)}"


def put(link: Connection, job: str, name: str, source: str, progress: Progress | None = None) -> None:
    """Send a file. Raises TransferError if it did not arrive whole, OSError if it cannot be read."""
    with open(source, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # A length is said beforehand: that makes the element refuse what breaks off.
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        pieces = _pieces(file, name, size, progress)
        try:
            link.request("PUT", path_of(job, name), (200, 201, 204), content=pieces, headers=headers)
            kept = int(link.request("HEAD", path_of(job, name), (200,)).headers["Content-Length"])
        except ArcRefused as error:
            raise TransferError(f"job {job}: {source} was not taken as {name}: {error}") from error
        except (KeyError, ValueError) as error:
            raise TransferError(f"job {job}: the element does not say how long {name} is") from error
    if kept != size:
        raise TransferError(f"job {job}: {source} has {size} bytes, the element kept {kept} of {name}")


def _pieces(file: IO[bytes], name: str, size: int, progress: Progress | None) -> Iterator[bytes]:
    sent = 0
    while sent < size and (piece := file.read(min(PIECE_BYTES, size - sent))):
        yield piece
        sent += len(piece)
        if progress is not None:
            progress(name, sent, size)
    if sent != size:
        raise TransferError(f"{file.name} became shorter while it was sent: {sent} of {size} bytes")


def read(link: Connection, job: str, name: str, most_bytes: int, kind: str = "session") -> bytes:
    """A file's content. Raises NoSuchFile, TransferError if there are more bytes than that."""
    found = b""
    with _answer(link, job, name, kind) as answer:
        for piece in answer.iter_raw(PIECE_BYTES):
            found += piece
            if len(found) > most_bytes:
                raise TransferError(f"job {job}: {name} has more than {most_bytes} bytes; get it as a file")
    return found


def get(link: Connection, job: str, name: str, target: str, progress: Progress | None = None) -> int:
    """Fetch a file; its bytes. The target is whole or as it was. Raises NoSuchFile, TransferError, OSError.

    What breaks off is gone on with from there.
    """
    part = f"{target}.{secrets.token_hex(4)}.part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
            size = _download(link, job, name, file, progress)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
    return size


def _download(link: Connection, job: str, name: str, file: IO[bytes], progress: Progress | None) -> int:
    size, broke = -1, 0
    while True:
        start = file.tell()
        try:
            with _answer(link, job, name, "session", start) as answer:
                whole = _whole(answer, start)
                if start and (answer.status_code != 206 or whole != size):
                    raise TransferError(f"job {job}: {name} changed while it was fetched")
                size = whole
                for piece in answer.iter_raw():  # as it comes: what has come when it breaks off is kept
                    file.write(piece)
                    if progress is not None:
                        progress(name, file.tell(), size)
        except ArcDown as error:
            broke += 1
            if broke > _RESUMES or size < 0:
                raise TransferError(
                    f"job {job}: {name} broke off after {file.tell()} of {size} bytes"
                ) from error
            continue
        if size in (-1, file.tell()):
            return file.tell()
        raise TransferError(f"job {job}: {name} has {size} bytes, {file.tell()} came")


def _whole(answer: httpx.Response, start: int) -> int:
    """The length of the whole file, -1 if the element does not say."""
    text = answer.headers.get("Content-Range", "").rpartition("/")[2] if start else ""
    text = text or answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else -1


@contextlib.contextmanager
def _answer(link: Connection, job: str, name: str, kind: str, start: int = 0) -> Iterator[httpx.Response]:
    try:
        with link.stream(path_of(job, name, kind), start) as answer:
            yield answer
    except ArcRefused as error:
        if error.status == 404:
            raise NoSuchFile(f"job {job} has no file {name}, or there is no such job") from error
        raise


def names(link: Connection, job: str, folder: str = "") -> list[str]:
    """All files below a folder of a job, sorted, without the folders themselves. Raises NoSuchFile."""
    found: list[str] = []
    left = [folder.rstrip("/")]
    while left:
        here = left.pop()
        try:
            answer = link.request("GET", path_of(job, f"{here}/" if here else ""), (200,))
        except ArcRefused as error:
            if error.status == 404:
                raise NoSuchFile(
                    f"job {job} has no folder {here or '(its own)'}, or there is no such job"
                ) from error
            raise
        listing = read_json(answer)
        prefix = f"{here}/" if here else ""
        # Some versions say "dir", some "dirs".
        folders = listed(listing.get("dir")) + listed(listing.get("dirs"))
        if here.count("/") > _DEEPEST:
            raise TransferError(f"job {job}: folders are more than {_DEEPEST} deep at {here}")
        found += [_inside(job, prefix, name) for name in listed(listing.get("file"))]
        left += [_inside(job, prefix, name) for name in folders]
    return sorted(found)


def _inside(job: str, prefix: str, name: object) -> str:
    """A name that the element gave, below the folder asked for. Raises TransferError if it is not."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise TransferError(
            f"job {job}: the element lists a file that cannot be in {prefix or 'its folder'}: {name!r}"
        )
    return prefix + name


def fetch(
    link: Connection, job: str, folder: str, wanted: list[str] | None, progress: Progress | None = None
) -> list[Path]:
    """Fetch these files, or all, into a folder of ours, which is made. Never writes outside it."""
    root = Path(folder).absolute()
    there = names(link, job)
    if wanted is not None:
        missing = sorted(set(wanted) - set(there))
        if missing:
            raise NoSuchFile(
                f"job {job} has no {', '.join(missing)}; it has {', '.join(there) or 'no files'}"
            )
        there = sorted(set(wanted))
    root.mkdir(parents=True, exist_ok=True)
    done = []
    for name in there:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # A link that was in the folder before could lead elsewhere.
        if not target.parent.resolve().is_relative_to(root.resolve()):
            raise ArcError(f"job {job}: {target} would be outside {root}")
        get(link, job, name, str(target), progress)
        done.append(target)
    return done
