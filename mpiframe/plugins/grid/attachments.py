"""Attachments of any size: read, stored and fetched in pieces, and checked on the way."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import mimetypes
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.errors import AttachmentError

_CHUNK = 1 << 20
_OWN_TYPES = {
    ".parset": "text/plain",
    ".log": "text/plain",
    ".fits": "image/fits",
    ".json": "application/json",
}

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A file's path, the content itself, or a file open for reading bytes."""


def content_type_of(name: str) -> str:
    """What a name's ending says of its content."""
    ending = os.path.splitext(name)[1].lower()
    return _OWN_TYPES.get(ending) or mimetypes.guess_type(name)[0] or "application/octet-stream"


@contextlib.contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, int]]:
    """(a file at the start of what is to be read, how many bytes there are). Raises AttachmentError."""
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
    elif isinstance(source, (str, os.PathLike)):
        try:
            file = open(source, "rb")  # noqa: SIM115 - closed below, and its errors are not the user's
        except OSError as error:
            raise AttachmentError(f"{os.fspath(source)} cannot be attached: {error.strerror}") from error
        with file:
            yield file, os.fstat(file.fileno()).st_size
    else:
        start = source.tell()
        length = source.seek(0, os.SEEK_END) - start
        source.seek(start)
        yield source, length


def pieces(file: BinaryIO, digest: Any) -> Iterator[bytes]:
    """What is left of a file, a mebibyte at a time; `digest` is told of it."""
    while piece := file.read(_CHUNK):
        digest.update(piece)
        yield piece


def stub(content_type: str, length: int, digest: bytes, rev: str) -> dict[str, Any]:
    """What a document says of an attachment that came with this revision."""
    return {
        "content_type": content_type,
        "length": length,
        "digest": "md5-" + base64.b64encode(digest).decode(),
        "revpos": int(rev.partition("-")[0]),
        "stub": True,
    }


def inline(content: bytes, content_type: str) -> dict[str, str]:
    """A small attachment as part of a document, so that both are saved at once."""
    return {"content_type": content_type, "data": base64.b64encode(content).decode()}


def download(database: Database, id: str, name: str, path: str, told: dict[str, Any]) -> None:
    """Fetch an attachment into a file, which is there once it is whole. Raises AttachmentError, NotFound.

    told: what the document says of it; its length and digest are checked.
    """
    part = f"{path}.part"
    digest, length = hashlib.md5(usedforsecurity=False), 0
    try:
        with database.attachment(id, name) as got, open(part, "wb") as file:
            for piece in got:
                file.write(piece)
                digest.update(piece)
                length += len(piece)
        _check(name, told, length, digest.digest())
        os.replace(part, path)
    except OSError as error:
        raise AttachmentError(
            f"attachment {name!r} of {id!r} cannot be kept in {path}: {error.strerror}"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _check(name: str, told: dict[str, Any], length: int, digest: bytes) -> None:
    wanted = told.get("length")
    if wanted is not None and wanted != length:
        raise AttachmentError(f"attachment {name!r} has {wanted:,} bytes, of which {length:,} came")
    kind, _, expected = str(told.get("digest", "")).partition("-")
    # Where CouchDB keeps it packed, the digest is that of what is packed.
    if "encoding" not in told and kind == "md5" and expected != base64.b64encode(digest).decode():
        raise AttachmentError(f"attachment {name!r} came with another content than the database has of it")
