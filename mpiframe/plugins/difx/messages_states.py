"""States, severities and the like that are in DiFX messages."""

from __future__ import annotations

import enum
from collections.abc import Callable


class Severity(enum.IntEnum):
    """How bad what an alert says is."""

    FATAL = 0
    SEVERE = 1
    ERROR = 2
    WARNING = 3
    INFO = 4
    VERBOSE = 5
    DEBUG = 6
    DO_NOT_SEND = 7


class DifxState(str, enum.Enum):
    """States of a correlation. A status may also hold a text that is none of them."""

    SPAWNING = "Spawning"
    STARTING = "Starting"
    RUNNING = "Running"
    ENDING = "Ending"
    DONE = "Done"
    ABORTING = "Aborting"
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"
    MPI_DONE = "MpiDone"
    CRASHED = "Crashed"

    def __str__(self) -> str:
        return self.value

    @property
    def ended(self) -> bool:
        """Whether mpifxcorr says nothing more after it. "Ending" comes early, before most of the data."""
        return self in (DifxState.DONE, DifxState.TERMINATED, DifxState.MPI_DONE, DifxState.CRASHED)


class Mark5State(str, enum.Enum):
    """States of a Mark 5 or Mark 6 unit."""

    OPENING = "Opening"
    OPEN = "Open"
    CLOSE = "Close"
    GET_DIRECTORY = "GetDirectory"
    GOT_DIRECTORY = "GotDirectory"
    PLAY = "Play"
    IDLE = "Idle"
    ERROR = "Error"
    BUSY = "Busy"
    INITIALIZING = "Initializing"
    RESETTING = "Resetting"
    REBOOTING = "Rebooting"
    POWER_OFF = "PowerOff"
    NO_DATA = "NoData"
    NO_MORE_DATA = "NoMoreData"
    PLAY_INVALID = "PlayInvalid"
    PLAY_START = "PlayStart"
    COPY = "Copy"
    CONDITION = "Condition"
    COND_ERROR = "CondError"
    TEST = "Test"
    TEST_WRITE = "TestWrite"
    TEST_READ = "TestRead"
    BOOTING = "Booting"
    RECORDING = "Recording"
    COPY_TO = "CopyTo"
    FUSE_MK5 = "FuseMk5"

    def __str__(self) -> str:
        return self.value


class StartFunction(str, enum.Enum):
    """What DifxStart is to do."""

    UNKNOWN = "unknown"
    DEFAULT = "default"
    NRAO = "NRAO"
    USNO = "USNO"
    RUN_MONITOR = "RUN_MONITOR"
    CONFIG_ONLY = "CONFIG_ONLY"
    BAIL_ON_CONFIG_FAIL = "BAIL_ON_CONFIG_FAIL"

    def __str__(self) -> str:
        return self.value


def known(kind: type[enum.Enum]) -> Callable[[str], object]:
    """Reads one of these, or leaves a text as it is."""

    def read(found: str) -> object:
        try:
            return kind(found.strip())
        except ValueError:
            return found

    return read
