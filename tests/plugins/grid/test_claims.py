"""Claims, leases and results on a real server: nothing twice, nothing lost."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mpiframe.plugins.grid import Claims, Database, DatabaseDown, NotFound, PilotError, Token, TokenList

LONG = bool(os.environ.get("MPIFRAME_TEST_GRID"))
LEASE = 60.0


def fill(database: Database, count: int) -> TokenList:
    tokens = TokenList("t", database, [Token("t", f"t_{i:04}") for i in range(count)])
    tokens.save()
    tokens.add_views()
    return tokens


def claims_on(database: Database, **options: Any) -> Claims:
    return Claims(database, "t", lease_seconds=LEASE, **options)


def later(database: Database, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so much of the server's time pass, as far as clients can see."""
    real = database.now
    monkeypatch.setattr(database, "now", lambda: real() + seconds)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("round_", range(10 if LONG else 1))
def test_many_claimers_get_each_token_once(database: Database, round_: int) -> None:
    claimers, count = (16, 500) if LONG else (8, 80)
    fill(database, count)
    got: list[str] = []
    started = threading.Barrier(claimers)

    def work(number: int) -> list[str]:
        claims = claims_on(Database(database.name, database.url, database._credentials))
        mine: list[str] = []
        started.wait(60)
        while claimed := claims.claim(1 + number % 5):
            mine += [one.id for one in claimed]
            for one in claimed:
                assert claims.finish(one, {"result": number, "status": "done"})
        claims.database.close()
        return mine

    with ThreadPoolExecutor(claimers) as pool:
        for ids in pool.map(work, range(claimers)):
            got += ids
    doubles = [id for id, times in Counter(got).items() if times > 1]
    assert doubles == []
    assert len(got) == count
    assert TokenList("t", database).overview() == {"todo": 0, "locked": 0, "done": count, "error": 0}


def test_an_old_row_of_a_view_is_no_claim(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, 3)
    first, second = claims_on(database), claims_on(database)
    stale = database.view("t", "todo", limit=3)
    assert len(first.claim(3)) == 3
    monkeypatch.setattr(database, "view", lambda *_, **__: stale)
    assert second.claim(3) == []
    docs = database.get_many([row.id for row in stale])
    assert {doc["claim"].partition(":")[0] for doc in docs.values()} == {first.session}


def test_what_a_claim_writes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, 1)
    truth = time.time()
    monkeypatch.setattr(time, "time", lambda: truth - 7200)  # this host's clock is wrong
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (token,) = claims_on(database).claim()
    assert token.category == "locked"
    assert abs(token["lock"] - truth) < 60
    assert abs(token["heartbeat"] - truth) < 60
    assert (token["lease"], token["slurm_job_id"], bool(token["hostname"])) == (LEASE, "70_3", True)
    assert database.get(token.id) == token


def test_a_lease_that_ran_out_and_one_that_was_renewed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 2)
    claims = claims_on(database)
    dead, alive = claims.claim(2)
    assert claims.reclaim() == []
    later(database, LEASE + 5, monkeypatch)
    assert claims.beat(alive, status="running")
    assert claims.reclaim() == [dead.id]
    assert not claims.beat(dead)
    doc = database.get(dead.id)
    assert (doc["lock"], doc["scrub_count"], doc["returned"]) == (0, 1, "its lease ran out")
    assert database.get(alive.id)["status"] == "running"
    assert [one.id for one in claims.claim(5)] == [dead.id]


def test_a_heartbeat_that_comes_at_the_last_moment_counts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 1)
    claims, other = (
        claims_on(database),
        claims_on(Database(database.name, database.url, database.credentials)),
    )
    (token,) = claims.claim()
    later(database, LEASE + 5, monkeypatch)
    later(other.database, LEASE + 5, monkeypatch)
    view = other.database.view

    def beaten(*args: Any, **params: Any) -> Any:
        rows = view(*args, **params)
        assert claims.beat(token)
        return rows

    monkeypatch.setattr(other.database, "view", beaten)
    assert other.reclaim() == []
    assert database.get(token.id)["claim"] == token["claim"]
    other.database.close()


def test_a_view_that_lists_more_than_can_be_claimed(database: Database) -> None:
    tokens = fill(database, 60)
    for one in tokens[:57]:
        one["lock"] = 5
    tokens.save()
    code = "function (doc) { if (doc.type === 't') { emit(doc._id, 1); } }"
    database.put({"_id": "_design/all", "views": {"all": {"map": code}}})
    claims = Claims(database, "t", "all/all")
    assert len(claims.claim(1)) == 1
    assert len(claims.claim(5)) == 2
    assert claims.claim(5) == []


def test_what_others_have_locked_is_left_alone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, 1)
    database.put(database.get("t_0000") | {"lock": 1, "hostname": "elsewhere"})
    claims = claims_on(database)
    later(database, 1e6, monkeypatch)
    assert claims.reclaim() == []
    assert claims.claim() == []
    assert database.get("t_0000")["lock"] == 1


def test_one_that_comes_back_again_and_again_is_an_error(database: Database) -> None:
    tokens = fill(database, 1)
    claims = claims_on(database, max_returns=2)
    for _ in range(3):
        (token,) = claims.claim()
        assert claims.release({token.id: token["claim"]}, reason="its pilot died") == [token.id]
    assert claims.claim() == []
    assert tokens.overview()["error"] == 1
    assert (
        "came back 3 times, the last because its pilot died" in database.get(token.id)["error"][0]["message"]
    )


def test_a_claim_that_is_not_ours_is_not_given_back(database: Database) -> None:
    fill(database, 2)
    claims, other = claims_on(database), claims_on(database)
    (token,) = claims.claim()
    assert other.release({token.id: "another:claim"}) == []
    assert claims.finish(token, {"status": "done"})
    assert claims.release({token.id: token.get("finished_claim", "")}) == []
    assert database.get(token.id)["done"] > 0


def test_what_a_session_has_lost_sight_of_comes_back(database: Database) -> None:
    fill(database, 4)
    claims, other = claims_on(database), claims_on(database)
    known, *_ = claims.claim(2)
    theirs = other.claim(1)
    assert len(claims.recover([known["claim"]])) == 1
    assert database.get(known.id)["lock"] > 0
    assert database.get(theirs[0].id)["lock"] > 0
    assert database.get(known.id).get("scrub_count") is None


def test_a_claim_whose_answer_is_lost_is_let_go(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = fill(database, 3)
    real = database.put_many
    calls = []

    def cut(docs: Any) -> Any:
        calls.append(real(docs))
        if len(calls) == 1:
            raise DatabaseDown("the line broke after it was done")
        return calls[-1]

    monkeypatch.setattr(database, "put_many", cut)
    with pytest.raises(DatabaseDown):
        claims_on(database).claim(2)
    assert tokens.overview()["todo"] == 3


def test_a_view_that_is_not_there(database: Database) -> None:
    fill(database, 1)
    for view, said in (("todoo", "no view 'todoo'; it has"), ("other/todo", "no design document 'other'")):
        with pytest.raises(NotFound, match=said):
            Claims(database, "t", view).claim()


def test_a_view_of_another_design_document(database: Database) -> None:
    fill(database, 2)
    code = "function (doc) { if (doc._id === 't_0001') { emit(doc._id, 1); } }"
    database.put({"_id": "_design/Monitor", "views": {"mine": {"map": code}}})
    assert [one.id for one in Claims(database, "t", "Monitor/mine").claim(5)] == ["t_0001"]


# -- results ------------------------------------------------------------------------------------------


def test_a_change_of_somebody_elses_does_not_cost_the_result(database: Database) -> None:
    fill(database, 1)
    claims = claims_on(database)
    (token,) = claims.claim()
    theirs = Token.of(database.get(token.id), database)
    theirs["note"] = "look at this"
    theirs.attach(b"1", "note.txt")
    theirs.save()
    assert claims.finish(token, {"result": 5, "status": "done"}, {"log": (b"text", "text/plain")})
    doc = database.get(token.id)
    assert (doc["result"], doc["note"], sorted(doc["_attachments"])) == (
        5,
        "look at this",
        ["log", "note.txt"],
    )
    assert {"claim", "heartbeat", "lease"} & set(doc) == set()


def test_finishing_twice_is_finishing_once(database: Database) -> None:
    fill(database, 1)
    claims = claims_on(database)
    (token,) = claims.claim()
    again = Token.of(dict(token), database)
    assert claims.finish(token, {"result": 1})
    assert claims.finish(again, {"result": 2})
    assert database.get(token.id)["result"] == 1


def test_a_late_result_is_kept_beside_the_one_that_counts(database: Database) -> None:
    fill(database, 1)
    claims = claims_on(database)
    (late,) = claims.claim()
    claims.release({late.id: late["claim"]})
    (token,) = claims.claim()
    assert not claims.finish(late, {"result": "late"}, {"log": (b"late", "text/plain")})
    older = Token("t", late.id, database)
    older["claim"] = "x:y"
    assert not claims.finish(older, {"result": "later"})
    assert claims.finish(token, {"result": "good"}, {"log": (b"good", "text/plain")})
    doc = database.get(token.id)
    assert doc["result"] == "good"
    assert [one["result"] for one in doc["late_results"]] == ["late", "later"]
    assert Token.of(doc, database).read("log") == b"good"
    assert len(doc["_attachments"]) == 2


def test_a_result_of_a_token_that_came_back_and_nobody_has_counts(database: Database) -> None:
    tokens = fill(database, 1)
    claims = claims_on(database)
    (token,) = claims.claim()
    claims.release({token.id: token["claim"]})
    assert claims.finish(token, {"result": 1, "status": "done"})
    assert tokens.overview()["done"] == 1
    assert claims.claim() == []


def test_a_database_that_is_down_for_a_while(own_couch: Any) -> None:
    database = Database("x", own_couch.url, timeout_seconds=5)
    database.create()
    fill(database, 1)
    claims = claims_on(database)
    (token,) = claims.claim()
    own_couch.stop()
    starting = threading.Timer(2.0, own_couch.start)  # longer than a request is repeated
    starting.start()
    try:
        assert claims.finish(token, {"result": 1, "status": "done"})
    finally:
        starting.join()
    assert database.get(token.id)["result"] == 1


def test_a_result_is_kept_in_a_file_where_the_database_stays_down(
    own_couch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database("x", own_couch.url, timeout_seconds=5)
    database.create()
    fill(database, 1)
    claims = claims_on(database)
    (token,) = claims.claim()
    own_couch.stop()
    with pytest.raises(PilotError, match="was not saved; it is kept in"):
        claims.finish(token, {"result": 1, "status": "done"}, {"log": (b"text", "text/plain")}, lambda: True)
    (kept,) = tmp_path.glob("result-t_0000-*.json")
    assert own_couch.password not in kept.read_text()
    own_couch.start()
    assert claims.save_kept(str(kept))
    assert not kept.exists()
    doc = database.get(token.id)
    assert doc["result"] == 1
    assert Token.of(doc, database).read("log") == b"text"


def test_a_result_of_a_token_that_was_deleted_is_kept(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(database, 1)
    claims = claims_on(database)
    (token,) = claims.claim()
    Token.of(dict(token), database).delete()
    with pytest.raises(PilotError, match="kept in"):
        claims.finish(token, {"result": 1})
    assert list(tmp_path.glob("result-*.json"))


@pytest.mark.parametrize("options", [{"lease_seconds": 1}, {"max_returns": -1}])
def test_limits_that_are_none(database: Database, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Claims(database, "t", **options)
