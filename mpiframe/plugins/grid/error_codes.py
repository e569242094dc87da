"""The error codes of GRID_LRT's sandboxes and launchers: what a token's field `output` says."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """An exit code with a meaning. A code that is none of these is the processing's own."""

    SANDBOX_EMPTY = -2
    OK = 0
    ENVIRONMENT_NOT_SET = 1
    PARSET_MISSING = 3
    JOBDIR_MISSING = 4
    NO_SOFTDRIVE = 10
    NO_LOFAR_ENVIRONMENT = 11
    NO_INIT_ENV = 12
    NO_DOWNLOAD_FILE = 20
    DOWNLOAD_FAILED = 21
    NOT_STAGED = 22
    NO_CALIBRATOR_SOLUTIONS = 23
    NOTHING_TO_UPLOAD = 30
    UPLOAD_FAILED = 31
    POOLS_FULL = 32
    FILE_EXISTS = 33
    PARENT_MISSING = 34
    NO_PIPELINE_OUTPUT = 90
    NOT_FULLY_DOWNLOADED = 96
    DPPP_MEMORY = 97
    BAD_ALLOC = 98
    PREFACTOR_FAILED = 99

    @property
    def meaning(self) -> str:
        """What happened, in a sentence."""
        return _MEANINGS[self]

    @classmethod
    def of(cls, output: object) -> ErrorCode | None:
        """The code that a token's `output` holds, as a number or as text; None if it is none of these."""
        if isinstance(output, bool) or not isinstance(output, (int, str)):
            return None
        try:
            return cls(int(output))
        except ValueError:
            return None


_MEANINGS = {
    ErrorCode.SANDBOX_EMPTY: "the sandbox that was downloaded is empty",
    ErrorCode.OK: "all is well",
    ErrorCode.ENVIRONMENT_NOT_SET: "the environment is not set up",
    ErrorCode.PARSET_MISSING: "the parset is missing",
    ErrorCode.JOBDIR_MISSING: "the folder of the job (JOBDIR) is missing",
    ErrorCode.NO_SOFTDRIVE: "Softdrive is not mounted on this node",
    ErrorCode.NO_LOFAR_ENVIRONMENT: "the LOFAR software's environment was not found",
    ErrorCode.NO_INIT_ENV: "the script init_env was not found",
    ErrorCode.NO_DOWNLOAD_FILE: "the list of files to download is missing",
    ErrorCode.DOWNLOAD_FAILED: "a download failed",
    ErrorCode.NOT_STAGED: "the files are not staged",
    ErrorCode.NO_CALIBRATOR_SOLUTIONS: "the calibrator's solutions could not be downloaded",
    ErrorCode.NOTHING_TO_UPLOAD: "there are no files to upload",
    ErrorCode.UPLOAD_FAILED: "an upload failed",
    ErrorCode.POOLS_FULL: "the storage has no room left for the upload",
    ErrorCode.FILE_EXISTS: "the file to upload exists already",
    ErrorCode.PARENT_MISSING: "the folder to upload to does not exist",
    ErrorCode.NO_PIPELINE_OUTPUT: "the output of genericpipeline is missing",
    ErrorCode.NOT_FULLY_DOWNLOADED: "the files were not downloaded fully",
    ErrorCode.DPPP_MEMORY: "DPPP ran out of memory",
    ErrorCode.BAD_ALLOC: "memory could not be allocated (bad_alloc)",
    ErrorCode.PREFACTOR_FAILED: "prefactor failed",
}


def describe(output: object) -> str:
    """A token's `output` in words: the code with its meaning, or that the processing chose the code."""
    code = ErrorCode.of(output)
    if code is not None:
        return f"{int(code)} ({code.meaning})"
    return f"{output} (a code of the processing itself)"


def code_of(error: BaseException | None) -> ErrorCode | None:
    """The code that stands for an error, or for what it was caused by: of a `Response`, `code_of(r.error)`.

    None where GRID_LRT has none for it.
    """
    while error is not None:
        code = getattr(error, "exit_code", None)
        if isinstance(code, ErrorCode):
            return code
        error = error.__cause__
    return None
