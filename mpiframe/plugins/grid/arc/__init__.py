"""Jobs on ARC computing elements, over their REST interface.

from mpiframe.plugins.grid.arc import ComputingElement, JobDescription

with ComputingElement("https://ce.example.org/arex") as element:
    job = element.submit(JobDescription("run.sh", ["3"], inputs={"run.sh": "run.sh"}))
    print(element.wait(job)[0].check(), element.read(job, "stdout.txt"))
"""

from typing import TYPE_CHECKING, Any

from mpiframe.plugins.grid.arc.description import JobDescription
from mpiframe.plugins.grid.arc.errors import (
    ArcDown,
    ArcError,
    ArcRefused,
    CredentialError,
    DescriptionError,
    JobFailed,
    JobNotFound,
    NoSuchFile,
    TransferError,
)
from mpiframe.plugins.grid.arc.states import ArcState, JobInfo

if TYPE_CHECKING:
    from mpiframe.plugins.grid.arc.credentials import Credentials
    from mpiframe.plugins.grid.arc.element import ComputingElement

__all__ = [
    "ArcDown",
    "ArcError",
    "ArcRefused",
    "ArcState",
    "ComputingElement",
    "CredentialError",
    "Credentials",
    "DescriptionError",
    "JobDescription",
    "JobFailed",
    "JobInfo",
    "JobNotFound",
    "NoSuchFile",
    "TransferError",
]

# Late: the grid plugin has these commands on servers that never send a job anywhere.
_LATE = {"ComputingElement": "element", "Credentials": "credentials"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
