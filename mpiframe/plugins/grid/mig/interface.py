"""`Mig`: the functions of MiG's Python interface as methods, over whatever runs the jobs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpiframe.plugins.grid.mig import mrsl, states
from mpiframe.plugins.grid.mig.call_log import CallLog
from mpiframe.plugins.grid.mig.errors import MigLocalError, MigServerError
from mpiframe.plugins.grid.mig.home import LocalServer
from mpiframe.plugins.grid.mig.server import JobServer, Upload

Files = str | Sequence[str]


class Mig:
    """Jobs and files on a server: `LocalServer()`, `HttpsServer()`, or `WorldServer(client)`.

    Paths on the server are relative to the user's home there. Each call is written to `log`. Methods raise
    MigLocalError, MigServerError and MigUnknownJobIdError.
    """

    def __init__(self, server: JobServer | None = None, log: CallLog | None = None) -> None:
        self.server: JobServer = LocalServer() if server is None else server
        self.log = log or CallLog()

    def test_connection(self) -> bool:
        """True if jobs could be submitted; raises otherwise."""
        self.log.call("test_connection")
        self.server.test()
        return True

    # -- jobs ------------------------------------------------------------------------------------

    def create_job(
        self,
        exec_commands: str | Sequence[str],
        input_files: Files = (),
        output_files: Files = (),
        executables: Files = (),
        cached_files: Files = (),
        resource_specifications: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> str:
        """Submit a job with its files; its id.

        exec_commands: one or more lines for the shell. input_files, executables: files here, as "file" or
        "file name_in_the_job". output_files: files that the job makes, as "file" or "file name_at_home".
        cached_files: as input_files, but not sent again if they are at home already.
        resource_specifications: further keywords of mRSL.
        """
        self.log.call(
            "create_job", exec_commands, input_files, output_files, executables, resource_specifications, name
        )
        uploads: list[Upload] = []
        inputs = [self._source(spec, uploads) for spec in _listed(input_files)]
        inputs += [self._source(spec, uploads, cached=True) for spec in _listed(cached_files)]
        programs = [self._source(spec, uploads, program=True) for spec in _listed(executables)]
        outputs = [" ".join(_words(spec)) for spec in _listed(output_files)]
        _refuse_collisions(uploads)
        specifications = dict(resource_specifications or {})
        if name and not any(key.upper() == "JOBNAME" for key in specifications):
            specifications["JOBNAME"] = name
        text = mrsl.write(_listed(exec_commands), inputs, outputs, programs, specifications)
        return self._submitted(text, uploads, name)

    def submit_job(self, mrsl_file: str, dest: str = "") -> str:
        """Submit a description that is in a file; its id. dest: where to keep it at home, if anywhere."""
        self.log.call("submit_job", mrsl_file, dest)
        try:
            with open(mrsl_file, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise MigLocalError(f"the job description {mrsl_file} cannot be read: {error}") from error
        mrsl.parse(text)
        uploads = [Upload(mrsl_file, _joined(mrsl_file, dest))] if dest else []
        return self._submitted(text, uploads, os.path.basename(mrsl_file).partition(".")[0])

    def job_info(self, job_id: str) -> dict[str, str]:
        """What is known of a job: ID, STATUS, RECEIVED, QUEUED, EXECUTING, FINISHED, FAILED, CANCELED ..."""
        info = self.server.info(str(job_id))
        self.log.call("job_info", job_id, result=info.get("STATUS"))
        return info

    def jobs_info(self, job_ids: Iterable[str]) -> list[dict[str, str]]:
        """The same of several jobs, in their order."""
        return [self.job_info(job_id) for job_id in _ids(job_ids)]

    def job_status(self, job_id: str) -> str:
        """QUEUED, EXECUTING, FINISHED, FAILED, CANCELED; a server has a few more."""
        return self.job_info(job_id)["STATUS"]

    def jobs_status(self, job_ids: Iterable[str]) -> list[str]:
        """The same of several jobs, in their order."""
        return [self.job_status(job_id) for job_id in _ids(job_ids)]

    def job_finished(self, job_id: str) -> bool:
        """Whether a job has ended, however: who waits for one that FAILED must not wait for ever."""
        return self.job_status(job_id) in states.ENDED

    def cancel_job(self, job_id: str) -> None:
        """End a job. Raises MigServerError for one that has ended before."""
        self.log.call("cancel_job", job_id)
        self.server.cancel(str(job_id))

    def cancel_jobs(self, job_ids: Iterable[str]) -> None:
        """End several jobs; all are tried, then the first error is raised."""
        errors = []
        for job_id in _ids(job_ids):
            try:
                self.cancel_job(job_id)
            except MigServerError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def wait(self, job_ids: str | Iterable[str], timeout: float | None = None) -> list[str]:
        """Wait until jobs have ended; their states. Raises TimeoutError after `timeout` seconds."""
        ids = _ids(job_ids)
        limit = None if timeout is None else time.monotonic() + timeout
        for job_id in ids:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            if not self.server.wait(job_id, left):
                raise TimeoutError(f"job {job_id} has not ended within {timeout} s; it goes on")
        return self.jobs_status(ids)

    def job_output(self, job_id: str) -> str:
        """What a job wrote to standard error, then to standard output."""
        self.log.call("job_output", job_id)
        self.server.info(str(job_id))
        return "".join(
            self._text(f"job_output/{job_id}/{job_id}.{ending}", missing_is_empty=True)
            for ending in ("stderr", "stdout")
        )

    # -- files -----------------------------------------------------------------------------------

    def upload_file(self, path: str, mig_path: str = "") -> None:
        """Put a file into the home, under its own name or as `mig_path` (a folder if it ends in a slash)."""
        self.log.call("upload_file", path, mig_path)
        _check_is_file(path)
        self.server.upload(path, _joined(path, mig_path))

    def get_file(self, filename: str, destination: str = "") -> str:
        """Get a file from the home, into this folder or to `destination`; where it is now."""
        self.log.call("get_file", filename, destination)
        where = destination or os.path.basename(filename)
        if os.path.isdir(where):
            where = os.path.join(where, os.path.basename(filename))
        self.server.download(filename, where)
        return where

    def cat_file(self, path: Files) -> str:
        """The text of a file of the home, or of several, one after the other."""
        self.log.call("cat_file", path)
        return "".join(self._text(one) for one in _listed(path))

    def ls(self, path: str = ".") -> list[str]:
        """The names in a folder of the home."""
        self.log.call("ls", path)
        return self.server.ls(path)

    def path_exists(self, path: str) -> bool:
        """Whether there is such a file or folder in the home."""
        self.log.call("path_exists", path)
        return self.server.exists(path)

    def mk_dir(self, path: str) -> None:
        """Make a folder in the home."""
        self.log.call("mk_dir", path)
        self.server.mkdir(path)

    def remove(self, path: Files) -> None:
        """Delete a file of the home, or several."""
        self.log.call("remove", path)
        for one in _listed(path):
            self.server.remove(one)

    def remove_dir(self, path: Files) -> None:
        """Delete an empty folder of the home, or several."""
        self.log.call("remove_dir", path)
        for one in _listed(path):
            self.server.rmdir(one)

    # -- inside ----------------------------------------------------------------------------------

    def _submitted(self, text: str, uploads: Sequence[Upload], name: str) -> str:
        if isinstance(self.server, LocalServer):
            idle = self.server.without_meaning(mrsl.parse(text))
            if idle:
                self.log.say(f"without meaning here: {', '.join(idle)}")
        job_id = self.server.submit(text, uploads, name)
        self.log.say(f"job {job_id} submitted")
        return job_id

    def _source(self, spec: str, uploads: list[Upload], program: bool = False, cached: bool = False) -> str:
        """Note what has to be sent for a file of a job; its line in the description."""
        source, *rest = _words(spec)
        if "://" in source:
            return " ".join([source, *rest])
        _check_is_file(source)
        name = os.path.basename(source)
        if not (cached and self.server.exists(name)):
            uploads.append(Upload(source, name, program))
        return " ".join([name, *rest])

    def _text(self, path: str, missing_is_empty: bool = False) -> str:
        try:
            return self.server.cat(path).decode("utf-8", errors="replace")
        except MigServerError as error:
            if missing_is_empty and error.error_code == 105:
                return ""  # a job that has not begun, or never did, has said nothing
            raise


def _listed(values: Files) -> list[str]:
    found = [values] if isinstance(values, (str, os.PathLike)) else list(values)
    return [os.fspath(value) for value in found]


def _ids(values: str | Iterable[str]) -> list[str]:
    return [values] if isinstance(values, str) else [str(value) for value in values]


def _words(spec: str) -> list[str]:
    words = spec.split()
    if not 1 <= len(words) <= 2:
        raise MigLocalError(
            f'{spec!r} is no file of a job: give "file" or "file destination"; names have no spaces'
        )
    return words


def _check_is_file(path: str) -> None:
    if not os.path.isfile(path):
        raise MigLocalError(f"there is no file {path} in {os.getcwd()}")


def _refuse_collisions(uploads: Sequence[Upload]) -> None:
    names: dict[str, str] = {}
    for one in uploads:
        path = os.path.realpath(one.path)
        if names.setdefault(one.name, path) != path:
            raise MigLocalError(
                f"{names[one.name]} and {path} would both be {one.name} in the home: rename one of them"
            )


def _joined(path: str, destination: str) -> str:
    if not destination or destination.endswith("/"):
        return os.path.join(destination, os.path.basename(path))
    return destination
