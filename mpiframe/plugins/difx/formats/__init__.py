"""The files of a DiFX job: read, changed and written, and the visibilities.

Each class of a text file has `read(path)`, `parse(text)`, `text()` and `write(path)`; what was read is
written byte for byte as it was, but for what was changed. A file that is not what it should be is a
FormatError, which names the file, the line, and what was expected there.
"""

from mpiframe.plugins.difx.formats.calc_file import Calc
from mpiframe.plugins.difx.formats.difxlog import DifxLog
from mpiframe.plugins.difx.formats.errors import FormatError
from mpiframe.plugins.difx.formats.im_file import Im
from mpiframe.plugins.difx.formats.input_file import Input, Product
from mpiframe.plugins.difx.formats.tables import FileList, Flags, JobList, Machines, Threads
from mpiframe.plugins.difx.formats.v2d import V2d
from mpiframe.plugins.difx.formats.vex import Vex

__all__ = [
    "Calc",
    "DifxLog",
    "FileList",
    "Flags",
    "FormatError",
    "Im",
    "Input",
    "JobList",
    "Machines",
    "Product",
    "Threads",
    "V2d",
    "Vex",
]
