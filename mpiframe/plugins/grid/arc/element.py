"""A computing element: jobs there over ARC's REST interface, versions 1.0 and 1.1.

with ComputingElement("https://ce.example.org/arex") as element:
    job = element.submit(JobDescription("run.sh", ["3"], inputs={"run.sh": "run.sh"}))
    element.wait(job)[0].check()
    element.fetch(job, "results")
    element.clean(job)
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mpiframe.plugins.grid.arc import files
from mpiframe.plugins.grid.arc.connection import Connection, read_json
from mpiframe.plugins.grid.arc.credentials import Credentials
from mpiframe.plugins.grid.arc.delegation import sign_request
from mpiframe.plugins.grid.arc.description import JobDescription, check_name, language
from mpiframe.plugins.grid.arc.errors import (
    ArcDown,
    ArcError,
    ArcRefused,
    CredentialError,
    DescriptionError,
    JobNotFound,
    TransferError,
)
from mpiframe.plugins.grid.arc.files import Progress
from mpiframe.plugins.grid.arc.states import ArcState, JobInfo, listed, read_info

_ID = re.compile(r"[A-Za-z0-9_.-]+")
_MANY = 200
"""How many jobs one request asks about."""
_GROWTH = 1.5


class ComputingElement:
    """Jobs on one element. May be used by several threads.

    url: such as "https://ce.example.org/arex"; credentials: found where grid programs look if none are given;
    timeout_seconds: for each step of a request, not for a whole transfer.
    """

    def __init__(
        self, url: str, credentials: Credentials | None = None, *, timeout_seconds: float = 60.0
    ) -> None:
        self._link = Connection(url, credentials, timeout_seconds)

    def __enter__(self) -> ComputingElement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; jobs go on."""
        self._link.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return self._link.url

    @property
    def version(self) -> str:
        """The version of the interface that is spoken."""
        return self._link.version

    def info(self) -> dict[str, Any]:
        """What the element says of itself (GLUE2)."""
        return read_json(self._link.request("GET", "/info", (200,), params={"schema": "glue2"}))

    def queues(self) -> list[str]:
        """The names of its queues."""
        node: Any = self.info()
        for key in ("Domains", "AdminDomain", "Services", "ComputingService"):
            node = node.get(key, {}) if isinstance(node, Mapping) else {}
        shares = listed(node.get("ComputingShare")) if isinstance(node, Mapping) else []
        # Those with a mapping policy are one queue as seen by one virtual organisation.
        return sorted({str(s["Name"]) for s in shares if "Name" in s and "MappingPolicy" not in s})

    # -- jobs -----------------------------------------------------------------------------------

    def submit(
        self,
        description: JobDescription | str,
        inputs: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        queue: str = "",
        delegate: bool | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Submit a job and send its files; its id. A job whose files cannot be sent is cancelled.

        A text is taken as it is, ADL or xRSL; `inputs` are then the files to send, as in a JobDescription.
        delegate: whether the element may act for us; None: if the description needs it. Version 1.1 takes
        `queue` and the delegation beside a text, 1.0 only within it.
        Raises DescriptionError, CredentialError, TransferError, ArcRefused, ArcDown, FileNotFoundError.
        """
        if isinstance(description, JobDescription):
            if inputs is not None:
                raise DescriptionError("inputs: those of a JobDescription are in it")
            uploads = description.uploads
        else:
            uploads = {check_name(name): os.fspath(source) for name, source in (inputs or {}).items()}
            language(description)
        for source in uploads.values():
            with open(source, "rb"):
                pass  # before there is a job that would wait for it
        if delegate is None:
            delegate = isinstance(description, JobDescription) and description.needs_delegation
        delegation = self.delegate() if delegate else ""
        job = self._create(description, queue, delegation)
        try:
            for name, source in uploads.items():
                files.put(self._link, job, name, source, progress)
        except BaseException as error:
            with contextlib.suppress(ArcError):
                self.cancel(job)
            if isinstance(error, (ArcDown, OSError)):
                raise TransferError(
                    f"job {job} was cancelled, its files could not be sent: {error}"
                ) from error
            raise
        return job

    def _create(self, description: JobDescription | str, queue: str, delegation: str) -> str:
        params = {"action": "new"}
        newer = self.version != "1.0"
        if newer:
            params.update({k: v for k, v in (("queue", queue), ("delegation_id", delegation)) if v})
        if isinstance(description, JobDescription):
            text = description.to_adl("" if newer else delegation)
            if queue and not newer and description.queue != queue:
                raise DescriptionError("queue: interface 1.0 takes it in the JobDescription")
        else:
            text = description
            if not newer and (queue or delegation):
                raise DescriptionError(
                    "queue, delegate: interface 1.0 takes them in the text; delegate() gives an id for that"
                )
        headers = {"Content-Type": language(text)}
        answer = self._link.request(
            "POST", "/jobs", (200, 201), params=params, content=text.encode(), headers=headers
        )
        results = listed(read_json(answer).get("job"))
        if len(results) != 1:
            for result in results:  # an xRSL of several; nobody would know their ids
                self._forget(result)
            raise DescriptionError(f"{self.url}: one job at a time, that text makes {len(results)}")
        status, reason = _status(results[0])
        if status != 201:
            kind = DescriptionError if "pars" in reason.lower() else ArcRefused
            raise kind(f"{self.url} did not take the job: {reason} ({status})")
        return str(results[0]["id"])

    def _forget(self, result: Any) -> None:
        with contextlib.suppress(ArcError, KeyError, TypeError):
            self.cancel(str(result["id"]))

    def jobs(self) -> list[str]:
        """The ids of all our jobs there."""
        answer = self._link.request("GET", "/jobs", (200,))
        return [str(one["id"]) for one in listed(read_json(answer).get("job"))]

    def status(self, job: str) -> ArcState:
        """The state of a job. Raises JobNotFound."""
        return self.statuses([job])[job]

    def statuses(self, jobs: Iterable[str]) -> dict[str, ArcState]:
        """The states of many jobs by id, in few requests. Raises JobNotFound."""
        return {job: ArcState(found.get("state")) for job, found in self._manage("status", jobs).items()}

    def describe(self, *jobs: str) -> list[JobInfo]:
        """All that the element says of these jobs. Raises JobNotFound."""
        found = self._manage("info", jobs)
        return [read_info(job, found[job].get("info_document") or {}) for job in jobs]

    def cancel(self, *jobs: str) -> None:
        """End jobs; what has ended already stays as it is. Raises JobNotFound."""
        self._manage("kill", jobs)

    def clean(self, *jobs: str) -> None:
        """Delete ended jobs with their files; others are ended first. Raises JobNotFound."""
        self._manage("clean", jobs)

    def restart(self, *jobs: str) -> None:
        """Try again the step at which jobs failed. Raises JobNotFound, ArcRefused if that cannot be."""
        self._manage("restart", jobs)

    def wait(
        self,
        *jobs: str,
        timeout_seconds: float | None = None,
        poll_seconds: float = 2.0,
        longest_poll_seconds: float = 60.0,
        patience_seconds: float = 600.0,
        on_change: Callable[[str, ArcState], None] | None = None,
        stop: threading.Event | None = None,
    ) -> list[JobInfo]:
        """Wait until jobs have ended, well or not (`JobInfo.check` tells); what the element says of them.

        It is asked at growing intervals, from `poll_seconds` to `longest_poll_seconds`; an element that does
        not answer is asked on for `patience_seconds`. on_change: called with each new state. stop: ends the
        waiting when it is set. Raises TimeoutError, JobNotFound, ArcDown, CredentialError.
        """
        wanted = list(dict.fromkeys(jobs))
        last: dict[str, ArcState] = {}
        pause, started = poll_seconds, time.monotonic()
        heard = started
        stop = stop if stop is not None else threading.Event()
        while True:
            left = [job for job in wanted if not last.get(job, ArcState.OTHER).ended]
            try:
                states = self.statuses(left)
            except ArcDown:
                if time.monotonic() - heard > patience_seconds:
                    raise
                states = {}
            else:
                heard = time.monotonic()
            changed = {job: state for job, state in states.items() if last.get(job) is not state}
            last.update(changed)
            if on_change is not None:
                for job, state in changed.items():
                    on_change(job, state)
            left = [job for job in left if not last.get(job, ArcState.OTHER).ended]
            if not left:
                return self.describe(*jobs)
            now = time.monotonic()
            if timeout_seconds is not None and now - started >= timeout_seconds:
                shown = ", ".join(f"{job} {last.get(job, 'not heard of')}" for job in left[:5])
                raise TimeoutError(
                    f"{len(left)} of {len(wanted)} jobs have not ended in {timeout_seconds} s: {shown}"
                )
            pause = poll_seconds if changed else min(pause * _GROWTH, longest_poll_seconds)
            if timeout_seconds is not None:
                pause = max(0.0, min(pause, started + timeout_seconds - now))
            if stop.wait(pause):
                raise TimeoutError(
                    f"the waiting was stopped; {len(left)} of {len(wanted)} jobs have not ended"
                )

    def _manage(self, action: str, jobs: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Do something with jobs; the results by id, for each one a good one."""
        wanted = list(dict.fromkeys(jobs))
        for job in wanted:
            if not isinstance(job, str) or not _ID.fullmatch(job):
                raise JobNotFound(f"{job!r} is no job's id")
        found: dict[str, Mapping[str, Any]] = {}
        wrong: list[tuple[str, int, str]] = []
        for start in range(0, len(wanted), _MANY):
            some = wanted[start : start + _MANY]
            answer = self._link.request(
                "POST",
                "/jobs",
                (200, 201),
                params={"action": action},
                content=json.dumps({"job": [{"id": job} for job in some]}),
                headers={"Content-Type": "application/json"},
            )
            results = {
                str(r.get("id")): r for r in listed(read_json(answer).get("job")) if isinstance(r, dict)
            }
            for job in some:
                if job not in results:
                    raise ArcError(f"{self.url} was asked to {action} {job}, and says nothing of it")
                status, reason = _status(results[job])
                if status in (200, 201, 202):
                    found[job] = results[job]
                else:
                    wrong.append((job, status, reason))
        if wrong:
            shown = ", ".join(f"{job}: {reason} ({status})" for job, status, reason in wrong[:5])
            if all(status == 404 for _, status, _ in wrong):
                raise JobNotFound(f"{self.url} does not know {len(wrong)} of {len(wanted)} jobs: {shown}")
            raise ArcRefused(
                f"{self.url} did not {action} {len(wrong)} of {len(wanted)} jobs: {shown}", wrong[0][1]
            )
        return found

    # -- files ----------------------------------------------------------------------------------

    def files(self, job: str, folder: str = "") -> list[str]:
        """The names of a job's files, those in folders too. Raises NoSuchFile."""
        return files.names(self._link, _checked(job), folder)

    def put(
        self, job: str, name: str, source: str | os.PathLike[str], progress: Progress | None = None
    ) -> None:
        """Send a file to a job's folder, and see that it arrived whole. Raises TransferError, OSError."""
        files.put(self._link, _checked(job), name, os.fspath(source), progress)

    def get(
        self, job: str, name: str, target: str | os.PathLike[str], progress: Progress | None = None
    ) -> int:
        """Fetch a file; its bytes. The target is written whole or not at all. Raises NoSuchFile, OSError."""
        return files.get(self._link, _checked(job), name, os.fspath(target), progress)

    def read(self, job: str, name: str, most_bytes: int = 1 << 24) -> bytes:
        """The content of a small file, such as what a job printed. Raises NoSuchFile, TransferError."""
        return files.read(self._link, _checked(job), name, most_bytes)

    def fetch(
        self,
        job: str,
        folder: str | os.PathLike[str],
        wanted: Iterable[str] | None = None,
        progress: Progress | None = None,
    ) -> list[Path]:
        """Fetch these files of a job, or all, into a folder of ours. Raises NoSuchFile, TransferError."""
        names = None if wanted is None else list(wanted)
        return files.fetch(self._link, _checked(job), os.fspath(folder), names, progress)

    def diagnose(self, job: str, what: str = "errors", most_bytes: int = 1 << 24) -> str:
        """What the element noted of a job: errors, failed, description, diag, status, statistics ..."""
        content = files.read(self._link, _checked(job), what, most_bytes, "diagnose")
        return content.decode("utf-8", "replace")

    # -- delegations ----------------------------------------------------------------------------

    def delegate(self, seconds: float = 12 * 3600) -> str:
        """Let the element act for us, with a proxy for so many seconds, or with our token; the id."""
        if not self._link.credentials.certificate:
            headers = {"X-Token-Delegation": f"Bearer {self._link.credentials.bearer()}"}
            params = {"action": "new", "type": "jwt"}
            answer = self._link.request("POST", "/delegations", (200, 201), params=params, headers=headers)
            delegation = _last_part(answer.headers.get("Location", ""))
            if b"CERTIFICATE REQUEST" in answer.content:
                self.remove_delegation(delegation)
                raise CredentialError(
                    f"{self.url} does not take tokens to act for us, only proxies: use a certificate"
                )
            return delegation
        answer = self._link.request("POST", "/delegations", (201,), params={"action": "new"})
        delegation = _last_part(answer.headers.get("Location", ""))
        self._give(delegation, answer.content, seconds)
        return delegation

    def renew_delegation(self, delegation: str, seconds: float = 12 * 3600) -> None:
        """Give a delegation a new proxy, before the old one ends. Raises ArcRefused if there is none."""
        path = f"/delegations/{_last_part(delegation)}"
        answer = self._link.request("POST", path, (200, 201), params={"action": "renew"})
        self._give(delegation, answer.content, seconds)

    def delegations(self) -> list[str]:
        """The ids of our delegations."""
        answer = self._link.request("GET", "/delegations", (200,))
        return [str(one["id"]) for one in listed(read_json(answer).get("delegation"))]

    def remove_delegation(self, delegation: str) -> None:
        """Take it back. Raises ArcRefused if there is none."""
        path = f"/delegations/{_last_part(delegation)}"
        self._link.request("POST", path, (200, 202), params={"action": "delete"})

    def _give(self, delegation: str, request: bytes, seconds: float) -> None:
        signed = sign_request(request, self._link.credentials, seconds)
        headers = {"Content-Type": "application/x-pem-file"}
        self._link.request("PUT", f"/delegations/{delegation}", (200,), content=signed, headers=headers)


def _checked(job: str) -> str:
    if not isinstance(job, str) or not _ID.fullmatch(job) or job in (".", ".."):
        raise JobNotFound(f"{job!r} is no job's id")
    return job


def _last_part(location: str) -> str:
    """The id at the end of an address; ARC 6 has a query before it."""
    found = location.rstrip("/").rpartition("/")[2]
    if not _ID.fullmatch(found):
        raise ArcError(f"{location!r} has no delegation's id in it")
    return found


def _status(result: Any) -> tuple[int, str]:
    try:
        return int(result["status-code"]), str(result.get("reason", ""))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ArcError(f"the element gave a result that cannot be read: {result!r}"[:300]) from None
