"""Tokens, lists of them and their views, on a real server."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpiframe.plugins.grid import (
    AttachmentError,
    Conflict,
    Database,
    NotFound,
    Overview,
    Token,
    TokenDictBuilder,
    TokenError,
    TokenJsonBuilder,
    TokenList,
    TokenSet,
    TokenView,
    category,
)
from mpiframe.plugins.grid.token_list import purge, token_types

DATA = Path(__file__).parent / "data"


def make(database: Database, count: int, token_type: str = "t") -> TokenList:
    tokens = TokenList(
        token_type, database, [Token(token_type, f"{token_type}_{i:03}") for i in range(count)]
    )
    tokens.save()
    return tokens


# -- one token ----------------------------------------------------------------------------------------


def test_a_token_is_a_document(database: Database) -> None:
    token = Token("t", "t_1", database)
    assert dict(token) == {"_id": "t_1", "type": "t", "PICAS_API_VERSION": "1.0.7", "lock": 0, "done": 0}
    assert not token.exists()
    token["x"] = 1
    token.save()
    token["x"] = 2
    token.save()
    again = Token("t", "t_1", database)
    again.fetch()
    assert again == token
    assert again["x"] == 2
    token.delete()
    assert not token.exists()
    token.save()
    assert token.exists()


@pytest.mark.parametrize("kind", ["", None, 3])
def test_a_token_has_a_type(kind: Any) -> None:
    with pytest.raises(TokenError, match="has a type"):
        Token(kind)


def test_one_without_a_database_says_so() -> None:
    with pytest.raises(TokenError, match="belongs to no database"):
        Token("t").save()


def test_changes_to_different_fields_are_both_kept(database: Database) -> None:
    ours = Token("t", "1", database)
    ours.update(a=1, b=1, gone=1)
    ours.save()
    theirs = Token.of(database.get("1"), database)
    theirs["a"] = 2
    theirs.attach(b"text", "x.txt")
    theirs.save()
    ours["b"] = 3
    del ours["gone"]
    ours.save()
    doc = database.get("1")
    assert (doc["a"], doc["b"], "gone" in doc, list(doc["_attachments"])) == (2, 3, False, ["x.txt"])
    assert ours["a"] == 2


def test_changes_to_the_same_field_are_told_and_lose_nothing(database: Database) -> None:
    ours = Token("t", "1", database)
    ours.save()
    theirs = Token.of(database.get("1"), database)
    theirs["a"] = "theirs"
    theirs.save()
    ours["a"] = "ours"
    with pytest.raises(Conflict, match="somebody else has changed a meanwhile"):
        ours.save()
    assert ours["a"] == "ours"
    assert database.get("1")["a"] == "theirs"


def test_a_new_token_never_writes_over_another(database: Database) -> None:
    old = Token("t", "1", database)
    old["lock"] = 5
    old.save()
    with pytest.raises(Conflict):
        Token("t", "1", database).save()
    assert database.get("1")["lock"] == 5


def test_synchronize(database: Database) -> None:
    database.put({"_id": "1", "type": "t", "a": 1, "b": 1})
    token = Token("t", "1")
    token["a"] = 9
    token.synchronize(database)
    assert (token["a"], token["b"], token["lock"]) == (1, 1, 0)
    token["a"] = 9
    token.synchronize(database, prefer_local=True, upload=True)
    assert database.get("1")["a"] == 9


def test_reset(database: Database) -> None:
    token = Token("t", "1", database)
    token.update(
        lock=5, done=6, output=3, exit_code=3, hostname="h", status="error", claim="c", scrub_count=1
    )
    assert token.category == "error"
    token.reset()
    assert token.category == "todo"
    assert (token["scrub_count"], token["hostname"], token["output"], token["status"]) == (2, "", "", "reset")


def test_it_travels(database: Database) -> None:
    token = Token("t", "1", database)
    token.save()
    again = pickle.loads(pickle.dumps(token))
    again["a"] = 1
    again.save()
    assert database.get("1")["a"] == 1
    again.database.close()


# -- builders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cal_pref3", "targ1_pref3"])
def test_what_builders_make(name: str) -> None:
    config = json.loads((DATA / f"{name}.json").read_text())
    built, read = TokenDictBuilder(config), TokenJsonBuilder(DATA / f"{name}.json")
    assert built.data == read.data
    token = Token("t", "1")
    token.build(built)
    expected = {"_id": "1", "type": "t", "PICAS_API_VERSION": "1.0.7", "lock": 0, "done": 0}
    expected |= {key: value for key, value in config["Token"].items() if key != "variables"}
    expected |= config["Job"]["variables"]
    expected["config.json"] = {
        "variables": config["Token"]["variables"],
        "container": config["container"],
        "sandbox": config["sandbox"],
    }
    assert dict(token) == expected
    token["upload"]["gzip"] = "mine alone"
    assert built.data["upload"]["gzip"] is False
    assert config["Token"]["variables"]  # what was given is as it was


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"PicasApiVersion": 0.4}, "built from 0.5 on"),
        ({"PicasApiVersion": "new"}, "is a number"),
        ({"Job": {"variables": [1]}}, "'variables'"),
        ([], "has sections"),
    ],
)
def test_configurations_that_are_refused(config: Any, said: str) -> None:
    with pytest.raises(TokenError, match=said):
        TokenDictBuilder(config)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(TokenError, match=r"x\.json is no JSON"):
        TokenJsonBuilder(tmp_path / "x.json")
    with pytest.raises(TokenError, match="No such file"):
        TokenJsonBuilder(tmp_path / "y.json")


# -- attachments --------------------------------------------------------------------------------------


def test_attachments_of_any_kind(database: Database, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "cal.parset").write_bytes(b"steps=[]")
    (tmp_path / "image.fits").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    token = Token("t", "t/1", database)
    for name in ("cal.parset", "image.fits", "empty"):
        token.attach(tmp_path / name)
    token.attach(b"log", "21/11/2026_logs.out")
    with open(tmp_path / "image.fits", "rb") as file:
        file.seek(2_999_999)
        token.attach(file, "last.bin")
    token.fetch()
    types = {name: one["content_type"] for name, one in token["_attachments"].items()}
    assert types == {
        "cal.parset": "text/plain",
        "image.fits": "image/fits",
        "empty": "application/octet-stream",
        "21/11/2026_logs.out": "application/octet-stream",
        "last.bin": "application/octet-stream",
    }
    out = token.download("image.fits", tmp_path / "back.fits")
    assert hashlib.sha256(Path(out).read_bytes()).digest() == hashlib.sha256(content).digest()
    assert token.read("last.bin") == content[-1:]
    assert token.read("empty") == b""
    with pytest.raises(NotFound, match=r"no attachment 'x'; it has 21/11/2026_logs.out"):
        token.download("x", tmp_path / "x")
    with pytest.raises(AttachmentError, match="No such file"):
        token.attach(tmp_path / "not-there")
    assert not list(tmp_path.glob("*.part"))
    token["after"] = 1
    token.save()  # its revision went along
    paths = token.archive(tmp_path, delete=True)
    assert [Path(path).name for path in paths] == [
        "t_1.json", "t_1-21_11_2026_logs.out", "t_1-cal.parset", "t_1-empty", "t_1-image.fits", "t_1-last.bin"
    ]  # fmt: skip
    assert Path(paths[4]).read_bytes() == content
    assert json.loads(Path(paths[0]).read_text())["after"] == 1
    assert not token.exists()


def test_a_file_that_shrinks_while_it_is_sent(database: Database) -> None:
    token = Token("t", "1", database)
    token.save()

    class Shrinking:
        """A file that is shorter than it was when it was measured."""

        def __init__(self) -> None:
            self.left = [b"x" * 70_000]

        def tell(self) -> int:
            return 0

        def seek(self, offset: int, whence: int = 0) -> int:
            return 1_000_000 if whence == os.SEEK_END else 0

        def read(self, size: int) -> bytes:
            return self.left.pop() if self.left else b""

    with pytest.raises(AttachmentError, match="1,000,000 bytes were announced, and 70,000 came"):
        token.attach(Shrinking(), "x")  # type: ignore[arg-type]
    # pouchdb-server does not notice, and keeps a piece; CouchDB keeps nothing.
    assert token.attachments == []


def test_a_download_onto_a_full_disk(database: Database, tmp_path: Path) -> None:
    token = Token("t", "1", database)
    token.attach(b"x" * 100_000, "x")
    (tmp_path / "x.part").symlink_to("/dev/full")
    with pytest.raises(AttachmentError, match="No space left on device"):
        token.download("x", tmp_path / "x")
    assert not list(tmp_path.glob("x*"))


def test_an_archive_on_a_full_disk_deletes_nothing(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = make(database, 2)
    tokens.attach(b"x", "x")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "add", full)
    with pytest.raises(AttachmentError, match="No space left on device; none was deleted"):
        tokens.archive(home, delete=True)
    assert not list(home.iterdir())
    assert len(tokens.list_all()) == 2


# -- lists --------------------------------------------------------------------------------------------


def test_what_a_list_takes(database: Database) -> None:
    tokens = TokenList("t", database, [Token("t", "1")])
    for wrong in ({"type": "t", "_id": "2"}, Token("u", "2"), TokenList("u", database)):
        with pytest.raises(TypeError):
            tokens.append(wrong)
    for add in (tokens.append, lambda one: tokens.insert(0, one), lambda one: tokens.extend([one])):
        with pytest.raises(TokenError, match="already"):
            add(Token("t", "1"))
    inner = TokenList("t", database, [Token("t", "2"), Token("t", "3")])
    tokens.append(inner)
    assert [one.id for one in tokens.tokens()] == ["1", "2", "3"]
    with pytest.raises(TokenError, match="'3'"):
        tokens += [Token("t", "3")]
    tokens.save()
    tokens["status"] = "queued"
    assert [database.get(id)["status"] for id in "123"] == ["queued"] * 3
    tokens.delete()
    assert database.get_many(["1", "2", "3"]) == {}
    assert tokens == []


def test_all_at_once(database: Database) -> None:
    tokens = make(database, 30)
    tokens.add_views()
    assert tokens.overview() == {"todo": 30, "locked": 0, "done": 0, "error": 0}
    Token.of(database.get("t_003"), database).attach(b"1", "x")  # somebody else's change
    tokens["status"] = "held"
    assert {one["status"] for one in tokens.list_view("todo")} == {"held"}
    assert database.get("t_003")["_attachments"].keys() == {"x"}
    for number, one in enumerate(tokens):
        one.update(lock=5, done=5 * (number % 2), output=number % 3)
    tokens.save()
    assert tokens.overview() == {"todo": 0, "locked": 15, "done": 5, "error": 10}
    tokens.list_view("error").reset()
    assert tokens.overview() == {"todo": 10, "locked": 15, "done": 5, "error": 0}
    assert len(tokens.list_all()) == 30
    tokens.list_view("locked").delete()
    with pytest.raises(NotFound, match="15 of 30 tokens are not in the database"):
        tokens.fetch()


def test_archive(database: Database, home: Path) -> None:
    tokens = make(database, 3)
    tokens[1].attach(b"content", "a/b.txt")
    path = tokens.archive(home, delete=True)
    assert path == str(home / "t.tar.gz")
    with tarfile.open(path) as tar:
        assert sorted(tar.getnames()) == ["t/t_000.json", "t/t_001-a_b.txt", "t/t_001.json", "t/t_002.json"]
        file = tar.extractfile("t/t_001-a_b.txt")
        assert file is not None
        assert file.read() == b"content"
    assert os.listdir(home) == ["t.tar.gz"]
    assert len(tokens.list_all()) == 0


def test_views(database: Database) -> None:
    tokens = make(database, 4)
    make(database, 2, "u")
    tokens[0]["flag"] = True
    tokens.save()
    tokens.add_view(TokenView("flagged", "doc.flag", ("doc._id", "doc.lock")))
    tokens.add_view(Overview("overview_total", detailed=True))
    assert [one.id for one in tokens.list_view("flagged")] == ["t_000"]
    tokens.add_view(TokenView("flagged", "!doc.flag"))
    assert [one.id for one in tokens.list_view("flagged")] == ["t_001", "t_002", "t_003"]
    assert set(tokens.views()) == {"flagged", "overview_total"}
    assert database.get("_design/t")["PICAS_API_VERSION"] == "1.0.7"
    with pytest.raises(NotFound, match="'t' has no view 'flaged'; it has flagged, overview_total"):
        tokens.list_view("flaged")
    assert token_types(database) == ["t"]
    purge(database, "t")
    assert token_types(database) == []
    assert set(database.get_many(["t_000", "u_000"])) == {"u_000"}


VALUES = st.sampled_from([0, 1, 99, -1, 2.5, "", "0", "5", " 7x", "x", None, True, [], {}])
FIELDS = {"lock": VALUES, "done": VALUES, "exit_code": VALUES, "output": VALUES,
          "status": st.sampled_from(["error", "done", "launched", "downloading", "", None])}  # fmt: skip


@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.fixed_dictionaries({}, optional=FIELDS), min_size=40, max_size=40))
def test_each_token_is_in_exactly_one_category(database: Database, docs: list[dict[str, Any]]) -> None:
    purge(database, "t")
    named = [doc | {"_id": f"{i:03}", "type": "t"} for i, doc in enumerate(docs)]
    database.put_many(named)
    tokens = TokenList("t", database)
    tokens.add_views()
    tokens.add_view(Overview("detail", detailed=True))
    there = {}
    for name in ("todo", "locked", "done", "error"):
        there[name] = [row.id for row in database.view("t", name)]
    assert sorted(id for ids in there.values() for id in ids) == [doc["_id"] for doc in named]
    for doc in named:
        assert doc["_id"] in there[category(doc)], doc
    assert tokens.overview() == {name: len(ids) for name, ids in there.items()}
    detail = {row.key: row.value for row in database.view("t", "detail", group=True)}
    assert sum(detail.values()) == len(docs)
    assert set(detail) <= {"todo", "waiting", "downloading", "running", "done", "error"}


# -- sets ---------------------------------------------------------------------------------------------


def test_a_set_from_a_mapping(database: Database, tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("Token:\n  OBSID: L229507\n  PIPELINE_STEP: cal\n  nested: {a: 1}\n")
    made = TokenSet("t", database, tmp_path / "c.yml")
    links = {"000": ["srm://a", "srm://b"], "010": ["srm://c"]}
    made.create_dict_tokens(links, id_append="L229507", file_upload="srm.txt")
    assert made.tokens == ["t_t_L229507_cal_SB000", "t_t_L229507_cal_SB010"]
    first = Token.of(database.get(made.tokens[0]), database)
    assert (first["STARTSB"], first["OBSID"], first["nested"], first.category) == (
        "000", "L229507", {"a": 1}, "todo"
    )  # fmt: skip
    assert first.read("srm.txt") == b"srm://a\nsrm://b\n"
    made.add_keys_to_list("queue", "short", made.tokens[:1])
    (tmp_path / "x.parset").write_text("x")
    made.add_attach_to_list(str(tmp_path / "x.parset"))
    docs = database.get_many(made.tokens)
    assert [docs[id].get("queue") for id in made.tokens] == ["short", None]
    assert [sorted(docs[id]["_attachments"]) for id in made.tokens] == [["srm.txt", "x.parset"]] * 2
    with pytest.raises(TokenError, match="'nobody'"):
        made.add_keys_to_list("a", 1, ["nobody"])
    with pytest.raises(TokenError, match="are numbers, not 'SB1'"):
        made.create_dict_tokens({"SB1": []})


@pytest.mark.parametrize(
    ("text", "said"), [("Token: [", "is no YAML"), ("a: 1", "no section Token"), ("\x00", "is no YAML")]
)
def test_malformed_configurations_of_sets(database: Database, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(TokenError, match=said):
        TokenSet("t", database, tmp_path / "c.yml")
