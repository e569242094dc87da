"""The client of the token database, on a real server."""

from __future__ import annotations

import contextlib
import datetime
import pickle
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpiframe.plugins.grid import (
    AttachmentError,
    Conflict,
    Credentials,
    CredentialsError,
    DatabaseDown,
    NotAllowed,
    NotFound,
)
from mpiframe.plugins.grid.couchdb import Database

MAP = "function(doc) { if (doc.n !== undefined) { emit(doc.n, doc.n * doc.n); } }"


def test_documents(database: Database) -> None:
    assert database.exists()
    rev = database.put({"_id": "a/b c", "n": np.int64(3), "x": np.arange(2.0)})
    assert "a/b c" in database
    assert "b" not in database
    doc = database.get("a/b c")
    assert (doc["_rev"], doc["n"], doc["x"]) == (rev, 3, [0.0, 1.0])
    with pytest.raises(Conflict, match="a%2Fb%20c"):
        database.put({"_id": "a/b c", "n": 4})
    database.put(doc | {"n": 4})
    with pytest.raises(Conflict):
        database.delete("a/b c", rev)
    database.delete("a/b c", database.get("a/b c")["_rev"])
    with pytest.raises(NotFound):
        database.get("a/b c")


def test_many_at_once(database: Database) -> None:
    rev = database.put({"_id": "1", "n": 0})
    saved = database.put_many([{"_id": str(i), "n": i} for i in range(4)])
    assert [one.id for one in saved] == ["0", "1", "2", "3"]
    assert [bool(one.rev) for one in saved] == [True, False, True, True]
    assert saved[1].error == "conflict"
    found = database.get_many(["1", "3", "no"])
    assert set(found) == {"1", "3"}
    assert found["1"]["_rev"] == rev
    assert database.get_many([]) == {}
    assert database.put_many([]) == []


def test_views(database: Database) -> None:
    database.put_many([{"_id": str(i), "n": i} for i in range(5)])
    database.put({"_id": "_design/d", "views": {"squares": {"map": MAP}}})
    rows = database.view("d", "squares", startkey=1, endkey=3, include_docs=True)
    assert [(row.id, row.key, row.value, row.doc and row.doc["n"]) for row in rows] == [
        ("1", 1, 1, 1), ("2", 2, 4, 2), ("3", 3, 9, 3)
    ]  # fmt: skip
    assert [row.id for row in database.view("d", "squares", keys=[4, 2])] == ["4", "2"]
    with pytest.raises(NotFound, match="'d' has no view 'cubes'; it has squares"):
        database.view("d", "cubes")
    with pytest.raises(NotFound, match="no design document 'e'"):
        database.view("e", "squares")


def test_a_database_that_is_not_there(couch: Any) -> None:
    other = Database("not-here", couch.url)
    assert not other.exists()
    with pytest.raises(NotFound, match="not-here"):
        other.view("d", "v")


def test_a_wrong_password_is_told_and_shows_nowhere(couch: Any) -> None:
    other = Database("x", couch.url.replace(couch.password, "hush-hush"))
    with pytest.raises(NotAllowed, match="'admin': the password is wrong") as caught:
        other.get("a")
    lines = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    said = "".join(lines) + repr(other) + repr(vars(other))
    assert "hush-hush" not in said
    assert "YWRtaW46" not in said  # the user and the password as they are sent


def test_no_server(closed_port: int) -> None:
    other = Database("x", f"http://u:p@127.0.0.1:{closed_port}")
    with pytest.raises(DatabaseDown, match=rf"at http://127\.0\.0\.1:{closed_port} cannot be reached"):
        other.get("a")


def test_a_server_that_comes_back_is_asked_again(own_couch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpiframe.plugins.grid.couchdb._RETRIES", 7)  # its start may take more than a second
    database = Database("x", own_couch.url)
    database.create()
    database.create()
    database.put({"_id": "a"})
    own_couch.stop()
    starting = threading.Timer(0.1, own_couch.start)
    starting.start()
    try:
        assert database.get("a")["_id"] == "a"
    finally:
        starting.join()


def test_the_servers_clock_and_not_ours(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = time.time()
    monkeypatch.setattr(time, "time", lambda: 12.0)
    assert abs(database.now() - truth) < 30


def test_it_travels(database: Database) -> None:
    database.put({"_id": "a"})
    again = pickle.loads(pickle.dumps(database))
    assert again.get("a")["_id"] == "a"
    again.close()


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_what_json_has_not(database: Database, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        database.put({"_id": "a", "x": value})
    assert "a" not in database


def test_an_attachment_goes_in_pieces(database: Database) -> None:
    rev = database.put({"_id": "a"})
    pieces = [bytes([i]) * 100_000 for i in range(30)]

    def produce() -> Iterator[bytes]:
        yield from pieces

    new = database.put_attachment("a", rev, "deep/name with.bin", produce(), 3_000_000, "image/x-own")
    stub = database.get("a")["_attachments"]["deep/name with.bin"]
    assert (stub["length"], stub["content_type"]) == (3_000_000, "image/x-own")
    with database.attachment("a", "deep/name with.bin") as got:
        assert b"".join(got) == b"".join(pieces)
    with pytest.raises(Conflict):
        database.put_attachment("a", rev, "x", [b"1"], 1, "text/plain")
    last = database.delete_attachment("a", new, "deep/name with.bin")
    assert database.get("a")["_rev"] == last
    with pytest.raises(NotFound), database.attachment("a", "deep/name with.bin") as got:
        b"".join(got)


def test_an_attachment_of_another_length_than_announced(database: Database) -> None:
    rev = ""
    for length in (30, 1):
        with pytest.raises(AttachmentError, match=f"{length} bytes were announced, and 2 came"):
            database.put_attachment("a", rev, "x", [b"12"], length, "text/plain")
    # What pouchdb-server makes of an upload that breaks off is seen to by `Token.attach`.


def test_where_nothing_names_the_server() -> None:
    with pytest.raises(CredentialsError, match="no url is given"):
        Database("x", None, Credentials("u", "p"))  # type: ignore[arg-type]


@pytest.fixture
def expired(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The port of a TLS server whose certificate has expired, and its file; a double that says nothing."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2020, 2, 1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(private + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1], str(tmp_path / "both.pem")
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_certificate_that_has_expired(expired: tuple[int, str]) -> None:
    port, authority = expired
    other = Database("x", f"https://u:hush-hush@localhost:{port}", verify=authority)
    with pytest.raises(DatabaseDown, match="certificate has expired") as caught:
        other.get("a")
    assert "hush-hush" not in str(caught.value)
    with pytest.raises(CredentialsError, match="/not/there cannot be read"):
        Database("x", "https://u:p@localhost:1", verify="/not/there").get("a")
