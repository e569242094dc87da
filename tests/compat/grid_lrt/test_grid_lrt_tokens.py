"""Scripts written for GRID_LRT's tokens, with their imports changed, on a real server."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mpiframe.compat.GRID_LRT.auth.get_picas_credentials import picas_cred
from mpiframe.compat.GRID_LRT.client import CouchDB
from mpiframe.compat.GRID_LRT.token import (
    Token,
    TokenHandler,
    TokenList,
    TokenReduceView,
    TokenSet,
    TokenView,
    caToken,
    get_all_design_docs,
    purge_tokens,
    reset_all_tokens,
)
from mpiframe.plugins.grid import Database, NotAllowed

CONFIG = Path(__file__).parents[2] / "plugins" / "grid" / "data" / "cal_pref3.json"

# What GRID_LRT's documentation shows, but for the imports, the server's address and the names in capitals.
LISTING = """
from mpiframe.compat.GRID_LRT.token import Token, TokenBuilder #Abstract classes
from mpiframe.compat.GRID_LRT.token import caToken, TokenJsonBUilder, TokenList, TokenView
from mpiframe.compat.GRID_LRT.token import TokenSet
from mpiframe.compat.GRID_LRT.auth.get_picas_credentials import picas_cred
pc=picas_cred() #Gets picas_credentials

from mpiframe.compat.GRID_LRT.client import CouchDB
from mpiframe.compat.GRID_LRT.token import caToken #Token that implements the cloudant interface
from mpiframe.compat.GRID_LRT.token import TokenList
from mpiframe.compat.GRID_LRT.token import TokenJsonBuilder
client = CouchDB(pc.user,pc.password, url=URL,connect=True)
db = client[pc.database]
there = 'token_id' in db # Checks if database includes the token
pulled = db['token_id'] #Pulls the token
tl = TokenList(database=db, token_type='token_type') #makes an empty list
tl.add_view(TokenView('temp',"doc.type == \\"{}\\" ".format(tl.token_type))) # adds a view to the token
for token in tl.list_view_tokens('temp'):
    tl.append(caToken(token_type=tl.token_type, token_id= token['_id'], database=db))
# adds every token in view to the local list (only their ids)
tl.fetch() #Fetch actual data for token in list
t1 = caToken(database=db, token_type='restructure_test', token_id=TOKEN_ID) #make a token (locally)
t1.build(TokenJsonBuilder(CONFIG))
t1.save() #upload to the database
t1.add_attachment(attachment_name='attachment_name_in_db.txt',filename=FILE) #Adds attachment to token
"""


@pytest.fixture
def creds(couch: Any, database: Database, monkeypatch: pytest.MonkeyPatch) -> picas_cred:
    """The user's credentials, in the environment."""
    monkeypatch.setenv("PICAS_USR", couch.user)
    monkeypatch.setenv("PICAS_USR_PWD", couch.password)
    monkeypatch.setenv("PICAS_DB", database.name)
    return picas_cred()


def test_the_listing_of_the_documentation(
    creds: picas_cred, couch: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("token_id", "another"):
        database.put({"_id": name, "type": "token_type", "lock": 0, "done": 0, "OBSID": "L1"})
    (tmp_path / "file.txt").write_text("attached")
    names: dict[str, Any] = {
        "URL": couch.host_url,
        "TOKEN_ID": "t_1",
        "CONFIG": str(CONFIG),
        "FILE": str(tmp_path / "file.txt"),
    }
    exec(LISTING, names)
    assert names["there"] is True
    assert names["pulled"]["OBSID"] == "L1"
    assert [(one.id, one["OBSID"]) for one in names["tl"]] == [("another", "L1"), ("token_id", "L1")]
    doc = database.get("t_1")
    assert (doc["type"], doc["OBSID"], doc["lock"], doc["status"]) == (
        "restructure_test", "L229585", 0, "queued"
    )  # fmt: skip
    assert doc["config.json"]["container"] == json.loads(CONFIG.read_text())["container"]
    assert database.get("_design/token_type")["PICAS_API_VERSION"] == "1.0.7"
    # Fetched, archived, deleted.
    monkeypatch.chdir(tmp_path)
    assert names["t1"].get_all_attachments() == ["t_1-attachment_name_in_db.txt"]
    assert (tmp_path / "t_1-attachment_name_in_db.txt").read_text() == "attached"
    names["t1"].archive(delete=True)
    assert json.loads((tmp_path / "t_1.json").read_text())["OBSID"] == "L229585"
    assert "t_1" not in database
    names["tl"].archive()
    with tarfile.open("token_type.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["token_type/another.json", "token_type/token_id.json"]
    assert database.get_many(["another", "token_id", "_design/token_type"]) == {}
    assert os.getcwd() == str(tmp_path)


def test_lists(creds: picas_cred, couch: Any, database: Database) -> None:
    db = CouchDB(creds.user, creds.password, url=couch.host_url)[creds.database]
    tokens = TokenList("t", db)
    for number in range(4):
        tokens.append(caToken(db, "t", f"t_{number}"))
    with pytest.raises(RuntimeError):
        tokens.append(caToken(db, "t", "t_0"))
    with pytest.raises(TypeError):
        tokens.append({"_id": "t_9"})
    with pytest.raises(NotImplementedError):
        Token("t").add_attachment("a", "b")
    tokens.upload_all()
    tokens["status"] = "launched"
    tokens[0].update(lock=5)
    tokens[1].update(lock=5, done=6, status="done", output=0)
    tokens[2].update(lock=5, done=0, status="error", output=21)  # counted twice by the original
    tokens.save()
    tokens.add_token_views()
    there = {name: len(tokens.list_view_tokens(name)) for name in ("todo", "locked", "done", "error")}
    assert there == {"todo": 1, "locked": 1, "done": 1, "error": 1}
    rows = {row.key: row.value for row in db.view("t", "overview_view", group=True)}
    assert rows == {"todo": 1, "waiting": 1, "done": 1, "error": 1}
    tokens.add_view(TokenReduceView("mine"))
    assert {"mine", "overview_view", "todo"} <= set(tokens.get_views())
    assert isinstance(tokens.get_all_remote_tokens()[0], caToken)
    reset_all_tokens("t", _at(creds), couch.host_url)
    assert len(tokens.list_view_tokens("todo")) == 4
    assert get_all_design_docs(creds, couch.host_url) == ["t"]
    purge_tokens("t", creds, couch.host_url)
    assert db.get_many([f"t_{n}" for n in range(4)]) == {}


def _at(creds: picas_cred) -> Any:
    return creds.get_picas_cred()


def test_a_handler_and_its_set(creds: picas_cred, couch: Any, database: Database, tmp_path: Path) -> None:
    handler = TokenHandler("t", couch.host_url, creds.user, creds.password, creds.database)
    first = handler.create_token({"OBSID": "L1"}, append="one")
    assert first == "t_t_one"
    (tmp_path / "x.txt").write_text("x")
    with open(tmp_path / "x.txt") as file:
        handler.add_attachment(first, file, "x.txt")
    assert handler.list_attachments(first) == ["x.txt"]
    assert handler.get_attachment(first, "x.txt", str(tmp_path / "back.txt")) == str(tmp_path / "back.txt")
    handler.add_status_views()
    handler.add_overview_view()
    handler.add_view("all", "true")
    assert [row["id"] for row in handler.list_tokens_from_view("todo")] == [first]
    assert handler.set_view_to_status("all", "error") == [first]
    assert handler.list_tokens_from_view("todo") == []
    assert handler.reset_tokens("error", key=["OBSID", "L2"]) == []
    assert handler.reset_tokens("error", key=["OBSID", "L1"], del_attach=True) == [first]
    assert handler.list_attachments(first) == []
    (tmp_path / "c.yml").write_text("Token:\n  OBSID: L229507\n  PIPELINE_STEP: cal\n")
    tokens = TokenSet(th=handler, tok_config=str(tmp_path / "c.yml"))
    tokens.create_dict_tokens({"000": ["srm://a"]}, id_append="L229507", file_upload="srm.txt")
    assert tokens.tokens == ["t_t_L229507_cal_SB000"]
    assert handler.delete_tokens("todo", ["OBSID", "L229507"]) == tokens.tokens
    handler.purge_tokens()
    assert first not in database


def test_credentials(home: Path, creds: picas_cred, couch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert creds.return_credentials() == (couch.user, couch.password, creds.database)
    assert couch.password not in f"{creds!r} {creds} {creds.password} {creds.get_picas_cred()}"
    creds.put_creds_in_file()
    assert (home / ".picasrc").stat().st_mode & 0o777 == 0o600
    for name in ("PICAS_USR", "PICAS_USR_PWD", "PICAS_DB"):
        monkeypatch.delenv(name)
    again = picas_cred()
    assert again.password == couch.password
    again.put_picas_creds_in_env()
    assert os.environ["PICAS_USR_PWD"] == couch.password
    assert picas_cred(usr="me", pwd="x", dbn="y").get_picas_cred() == ("me", "x", "y")
    with pytest.raises(NotAllowed):
        CouchDB("me", "x", url=couch.host_url, connect=True)


def test_views_and_a_server_by_name(creds: picas_cred, couch: Any, database: Database) -> None:
    client = CouchDB(creds.user, creds.password, url=couch.host_url, connect=True)
    assert database.name in client
    assert database.name in client.all_dbs()
    with pytest.raises(KeyError):
        client["not-there"]
    with pytest.raises(KeyError):
        client[database.name]["not-there"]
    client.create_database(database.name)
    assert TokenView("x", "true").emit_values == ("doc._id", "doc._id")
