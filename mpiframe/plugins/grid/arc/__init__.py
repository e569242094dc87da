"""Jobs on ARC computing elements, over their REST interface.

from mpiframe.plugins.grid.arc import ComputingElement, JobDescription

with ComputingElement("https://ce.example.org/arex") as element:
    job = element.submit(JobDescription("run.sh", ["3"], inputs={"run.sh": "run.sh"}))
    print(element.wait(job)[0].check(), element.read(job, "stdout.txt"))
"""

from mpiframe.plugins.grid.arc.credentials import Credentials
from mpiframe.plugins.grid.arc.description import JobDescription
from mpiframe.plugins.grid.arc.element import ComputingElement
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
