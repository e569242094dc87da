"""Who works on which token: claims that exclude each other, leases, and results that are not lost.

A claim is a token's lock together with a name of its own (the field `claim`), written by a save that fails
if anybody else has changed the token. It holds for a lease: whoever holds it writes the field `heartbeat` now
and then. A claim whose last heartbeat is older than its lease is taken back by whoever sees it, and the token
may be claimed again. All times are the database server's, so that the clocks of hosts do not matter.

Tokens that somebody else's program has locked have no lease, and are left alone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mpiframe.plugins.grid.attachments import inline
from mpiframe.plugins.grid.couchdb import Database
from mpiframe.plugins.grid.errors import Conflict, DatabaseDown, DatabaseError, NotFound, PilotError
from mpiframe.plugins.grid.token_list import TokenList
from mpiframe.plugins.grid.tokens import Token
from mpiframe.plugins.grid.views import ERROR, LOCKED, TODO, category

LEASE_SECONDS = 600.0
MAX_RETURNS = 10
_WINDOW = 200  # rows of the view from which claimers choose at random, so that they seldom meet
_AT_LEAST = 5  # documents that are looked at for each claim, should some not be there to be claimed
_ROUNDS = 20
_SLACK_SECONDS = 2.0  # the server's clock is known to a second
_PATIENCE_SECONDS = 3600.0
_LONGEST_WAIT_SECONDS = 30.0

_JOB_IDS = (
    ("DIRACJOBID", "dirac_job_id"),
    ("GLITE_WMS_JOBID", "wms_job_id"),
    ("CREAM_JOBID", "cream_job_id"),
    ("PBS_JOBID", "pbs_job_id"),
    ("SLURM_JOB_ID", "slurm_job_id"),
)


class Claims:
    """Claims tokens of one type and sees to what becomes of them. May be used by several threads.

    Parameters
    ----------
    view: from which tokens are claimed; DESIGN/VIEW for one of another design document than the type's.
    lease_seconds: how long a claim holds without a heartbeat.
    max_returns: a token that came back so often is set to error in place of going back to todo.
    patience_seconds: how long a result is tried to be saved while the database is down.
    """

    def __init__(
        self,
        database: Database,
        token_type: str,
        view: str = TODO,
        *,
        lease_seconds: float = LEASE_SECONDS,
        max_returns: int = MAX_RETURNS,
        patience_seconds: float = _PATIENCE_SECONDS,
        session: str | None = None,
    ) -> None:
        if lease_seconds <= 2 * _SLACK_SECONDS:
            raise ValueError(
                f"lease_seconds has to be more than {2 * _SLACK_SECONDS:g}, not {lease_seconds!r}"
            )
        if max_returns < 0:
            raise ValueError(f"max_returns is a number of times, not {max_returns!r}")
        self.database = database
        self.token_type = token_type
        self.lease_seconds = lease_seconds
        self.session = session or uuid.uuid4().hex
        self._max_returns = max_returns
        self._patience = patience_seconds
        design, slash, name = view.rpartition("/")
        self._design, self._view = (design, name) if slash else (token_type, view)

    # -- claiming ----------------------------------------------------------------------------------

    def claim(self, count: int = 1) -> list[Token]:
        """At most so many tokens, which are ours alone; fewer only if there are no more to be had.

        Raises NotFound if there is no such view, DatabaseDown.
        """
        claimed: list[Token] = []
        seen: set[str] = set()  # ours, and those that the view lists though they are not to be claimed
        try:
            for _ in range(_ROUNDS):
                limit = max(_WINDOW, 2 * count) + len(seen)
                rows = self.database.view(self._design, self._view, limit=limit, reduce=False)
                ids = sorted({row.id for row in rows} - seen)
                if not ids or len(claimed) >= count:
                    break
                wanted = random.sample(ids, min(len(ids), max(_AT_LEAST, count - len(claimed))))
                docs = [doc for doc in self.database.get_many(wanted).values() if category(doc) == TODO]
                seen.update(set(wanted) - {doc["_id"] for doc in docs})
                claimed += self._lock(docs[: count - len(claimed)])
                seen.update(one.id for one in claimed)
        except BaseException:
            self._let_go(claimed)
            raise
        return claimed

    def _lock(self, docs: Iterable[dict[str, Any]]) -> list[Token]:
        """Lock these, as they are; one that was changed since is left to whoever did."""
        now = self.database.now()
        tokens = [Token.of(doc, self.database) for doc in docs]
        for token in tokens:
            token.update(
                lock=int(now),
                done=0,
                hostname=socket.gethostname(),
                claim=f"{self.session}:{uuid.uuid4().hex[:12]}",
                heartbeat=now,
                lease=self.lease_seconds,
                status="locked",
                **_job_id(),
            )
            for name in ("exit_code", "output"):
                if token.get(name) not in (None, "", {}):
                    token[name] = ""
        try:
            saved = self.database.put_many(tokens)
        except BaseException:
            # Whether it was done nobody knows. What was locked is ours by its claim.
            self._let_go(tokens)
            raise
        ours = []
        for token, one in zip(tokens, saved, strict=True):
            if one.rev:
                token._saved(one.rev)
                ours.append(token)
        return ours

    def _let_go(self, tokens: Sequence[Token]) -> None:
        with contextlib.suppress(DatabaseError):  # then their lease runs out
            self.release({token.id: token["claim"] for token in tokens if "claim" in token}, counted=False)

    # -- keeping and giving back -------------------------------------------------------------------

    def beat(self, token: Mapping[str, Any], **fields: Any) -> bool:
        """Say that we are still at it; False if the token is ours no longer. Raises DatabaseDown."""
        for _ in range(_ROUNDS):
            doc = self._now_of(token["_id"])
            if not _is_ours(doc, token["claim"]):
                return False
            with contextlib.suppress(Conflict):
                self.database.put({**doc, "heartbeat": self.database.now(), **fields})
                return True
        return True

    def release(self, claims: Mapping[str, str], counted: bool = True, reason: str = "") -> list[str]:
        """Give tokens back, given their claims by id; the ids of those that were still claimed so.

        counted: it counts towards max_returns. Raises DatabaseDown.
        """
        return self._release(claims, counted, reason, lambda _: True)

    def _release(
        self, claims: Mapping[str, str], counted: bool, reason: str, when: Callable[[Any], bool]
    ) -> list[str]:
        left, given = dict(claims), []
        for _ in range(_ROUNDS):
            docs = self.database.get_many(sorted(left))
            ours = [doc for id, doc in docs.items() if _is_ours(doc, left[id]) and when(doc)]
            saved = self.database.put_many([self._returned(doc, counted, reason) for doc in ours])
            given += [one.id for one in saved if one.rev]
            left = {one.id: left[one.id] for one in saved if not one.rev}
            if not left:
                break
        return given

    def reclaim(self) -> list[str]:
        """Give back the tokens whose lease has run out, whoever had them; their ids. Raises DatabaseDown."""
        rows = self.database.view(self.token_type, LOCKED, include_docs=True, reduce=False)
        now = self.database.now()
        expired = {row.doc["_id"]: row.doc["claim"] for row in rows if row.doc and _has_expired(row.doc, now)}
        # Looked at again before it is done: a heartbeat may have come meanwhile.
        return self._release(expired, True, "its lease ran out", lambda doc: _has_expired(doc, now))

    def recover(self, known: Iterable[str]) -> list[str]:
        """Give back what this session has claimed and does not know of, because the answer got lost."""
        rows = self.database.view(self.token_type, LOCKED, include_docs=True, reduce=False)
        ours = {row.doc["_id"]: str(row.doc.get("claim", "")) for row in rows if row.doc}
        lost = {id: c for id, c in ours.items() if c.partition(":")[0] == self.session}
        return self.release({id: c for id, c in lost.items() if c not in set(known)}, counted=False)

    def _returned(self, doc: dict[str, Any], counted: bool, reason: str) -> dict[str, Any]:
        token = Token.of(doc, self.database)
        if not counted:
            count = token.get("scrub_count", 0)
            token.reset()
            token["scrub_count"] = count
            return token
        token.reset()
        if token["scrub_count"] > self._max_returns:
            words = f"it came back {token['scrub_count']} times" + (
                f", the last because {reason}" if reason else ""
            )
            self._fill(token, {"status": ERROR, "exit_code": 1, "output": 1})
            token["lock"] = int(self.database.now())
            token["error"] = [*_list_of(token.get("error")), _error(words, self.database.now())]
        elif reason:
            token["returned"] = reason
        return token

    # -- results -----------------------------------------------------------------------------------

    def finish(
        self,
        token: Token,
        fields: Mapping[str, Any],
        attachments: Mapping[str, tuple[bytes, str]] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Save a result: fields, and small attachments as name -> (content, type). Whether it counts.

        A change that somebody made to the token meanwhile stays. If the token was taken from us, and done by
        somebody else or claimed again, the result is kept in its field `late_results`, and False returned.
        While the database is down it is tried again, for `patience_seconds` or until `stop()`; then the
        result is written to a file, and PilotError names it.
        """
        inlined = {name: inline(content, kind) for name, (content, kind) in (attachments or {}).items()}
        deadline, wait = time.monotonic() + self._patience, 0.5
        while True:
            try:
                return self._finish(token, fields, inlined)
            except DatabaseDown as error:
                if stop() or time.monotonic() > deadline:
                    raise self._kept(token, fields, inlined, error) from error
            except NotFound as error:
                raise self._kept(token, fields, inlined, error) from error
            threading.Event().wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _finish(self, token: Token, fields: Mapping[str, Any], inlined: dict[str, dict[str, str]]) -> bool:
        claim = token["claim"]
        known = token._base  # as it was when we last saw it: where nobody has changed it, one request will do
        while True:
            doc = copy.deepcopy(known) if known.get("claim") == claim else self.database.get(token.id)
            known = {}
            now = self.database.now()
            if doc.get("finished_claim") == claim:
                token._take(doc)
                return True  # an earlier try, whose answer got lost
            free = category(doc) == TODO  # taken from us, but nobody else has it
            counts = free or _is_ours(doc, claim)
            if counts:
                self._fill(doc, fields)
                doc["finished_claim"] = claim
                doc["lock"] = doc.get("lock") or int(now)
            else:
                late = _list_of(doc.get("late_results"))
                if any([one.get("claim") == claim for one in late if isinstance(one, dict)]):
                    return False
                doc["late_results"] = [*late, {**fields, "claim": claim, "time": int(now)}]
            if inlined:
                there = doc.get("_attachments", {})
                prefix = "" if counts else f"late-{claim[-12:]}-"
                doc["_attachments"] = {**there, **{prefix + name: one for name, one in inlined.items()}}
            with contextlib.suppress(Conflict):
                rev = self.database.put(doc)
                token.clear()
                token.update(doc)
                token._saved(rev)
                return counts

    def _fill(self, doc: dict[str, Any], fields: Mapping[str, Any]) -> None:
        now = int(self.database.now())
        doc.update(fields)
        doc["done"] = now
        for name in ("claim", "heartbeat", "lease"):
            doc.pop(name, None)
        times = doc.get("times")
        if isinstance(times, dict):
            times[str(doc.get("status"))] = now

    def _kept(
        self, token: Token, fields: Mapping[str, Any], inlined: dict[str, dict[str, str]], error: Exception
    ) -> PilotError:
        """Put the result where it can be found."""
        content = {"token": token.id, "claim": token["claim"], "fields": dict(fields), "attachments": inlined}
        name = re.sub(r"[^\w.-]", "_", token.id)
        try:
            number, path = tempfile.mkstemp(prefix=f"result-{name}-", suffix=".json", dir=os.getcwd())
            with open(number, "w", encoding="utf-8") as file:
                json.dump(content, file, default=str)
        except OSError as problem:
            return PilotError(
                f"the result of token {token.id!r} could neither be saved ({error}) nor kept: {problem}"
            )
        return PilotError(f"the result of token {token.id!r} was not saved; it is kept in {path}: {error}")

    def save_kept(self, path: str) -> bool:
        """Save a result that was kept in a file, and delete that; whether it counts."""
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        token = Token(self.token_type, content["token"], self.database)
        token["claim"] = content["claim"]
        counts = self._finish(token, content["fields"], content["attachments"])
        os.unlink(path)
        return counts

    # -- small things ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Add the views that are missing. Raises NotFound if the one to claim from is not among them."""
        TokenList(self.token_type, self.database).add_views(replace=False)
        self.database.view(self._design, self._view, limit=1, reduce=False)

    def _now_of(self, id: str) -> dict[str, Any]:
        try:
            return self.database.get(id)
        except NotFound:
            return {}


def failure(message: str, now: float, traceback: str = "") -> dict[str, Any]:
    """An entry of a token's field `error`."""
    return {"time": int(now), "message": message, "exception": traceback}


_error = failure


def _is_ours(doc: Mapping[str, Any], claim: str) -> bool:
    return doc.get("claim") == claim and category(doc) == LOCKED


def _has_expired(doc: Mapping[str, Any], now: float) -> bool:
    beat, lease = doc.get("heartbeat"), doc.get("lease")
    if not isinstance(beat, (int, float)) or not isinstance(lease, (int, float)) or "claim" not in doc:
        return False
    return beat + lease + _SLACK_SECONDS < now


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "", {}) else [value]


def _job_id() -> dict[str, str]:
    """Which batch job this is, as PiCaS notes it."""
    for variable, field in _JOB_IDS:
        value = os.environ.get(variable)
        if value:
            task = os.environ.get("SLURM_ARRAY_TASK_ID") if variable == "SLURM_JOB_ID" else None
            parent = os.environ.get("SLURM_ARRAY_JOB_ID") if task else None
            return {field: f"{parent}_{task}" if parent else value}
    return {}
