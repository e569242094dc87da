"""The two examples of the document that users know, on stand-ins for what CASA has.

As written, but for the import, and what the document has got wrong: typographic quotes, `{vis=...}` for a
dict, and a quote that is missing at the end of `tb.close()`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpi4casa.MPICommandClient import MPICommandClient

WVRGCAL = """
def wvrgcal(vis="", caltable="", spw=[]):
    time.sleep(0.01)
    return {"vis": vis, "caltable": caltable, "spw": spw, "server": MPIEnvironment.mpi_processor_rank}
"""

# A table tool that knows which file is open, whose cells `ms` reads, too.
TOOLS = """
import sys, types
import numpy

class Table:
    def __init__(self):
        self.log, self.cells = [], {}
    def open(self, name):
        self.log.append(f"open {name}")
        self.cells["DATA", 1] = numpy.array([float(len(name)), 90.0, 3.0, 4.0, 5.0])
    def getcell(self, column, row):
        return self.cells[column, row]
    def putcell(self, column, row, value):
        self.log.append(f"putcell {column} {row}")
        self.cells[column, row] = value
    def close(self):
        self.log.append("close")
        return True

tb = Table()
ms = types.SimpleNamespace(getcell=tb.getcell)

try:
    import scipy.signal
except ImportError:
    def medfilt(volume, kernel_size=3):
        padded = numpy.pad(volume, kernel_size // 2)
        windows = numpy.lib.stride_tricks.sliding_window_view(padded, kernel_size)
        return numpy.median(windows, axis=1)

    scipy = types.ModuleType("scipy")
    scipy.signal = types.ModuleType("scipy.signal")
    scipy.signal.medfilt = medfilt
    sys.modules["scipy"], sys.modules["scipy.signal"] = scipy, scipy.signal
"""


@pytest.fixture
def prepared(client: Any, servers: list[int]) -> None:
    for command in (WVRGCAL, TOOLS):
        for response in client.push_command_request(command, True, servers):
            assert response["successful"], response["traceback"]


def test_example_1(prepared: None, servers: list[int]) -> None:
    client = MPICommandClient()
    client.set_log_mode("redirect")
    client.start_services()

    # Example of full command including parameters
    cmd1 = "wvrgcal(vis='X54.ms',caltable='cal-wvr_X54',spw=[1,3,5,7])"
    cmdId1 = client.push_command_request(cmd1, block=False)
    # Example of command with separated parameter list
    cmd2 = "wvrgcal()"
    params2 = {"vis": "X54.ms", "caltable": "cal-wvr_X54", "spw": [1, 3, 5, 7]}
    cmdId2 = client.push_command_request(cmd2, block=False, parameters=params2)
    # Retrieve results
    resultList = client.get_command_response([cmdId1, cmdId2], block=True)

    client.set_log_mode("unified")
    assert [r["command"] for r in resultList] == [cmd1, cmd2]
    for result in resultList:
        assert result["successful"] is True
        assert result["traceback"] is None
        server = result["ret"].pop("server")
        assert server == result["server"]
        assert result["ret"] == params2
    if len(servers) > 1:
        assert resultList[0]["server"] != resultList[1]["server"]


@pytest.mark.servers(2)
def test_example_2(prepared: None) -> None:
    client = MPICommandClient()
    # Open MSs
    client.push_command_request("tb.open('x54.ms')", target_server=1)
    client.push_command_request("tb.open('x220.ms')", target_server=2)
    # Apply median filter
    client.push_command_request("data=ms.getcell('DATA',1)", target_server=[1, 2])
    client.push_command_request("from scipy import signal", target_server=[1, 2])
    client.push_command_request("filt_data=signal.medfilt(data)", target_server=[1, 2])
    # Put filter data back in the MSs
    client.push_command_request("tb.putcell('DATA',1,filt_data)", target_server=[1, 2])
    # Close MSs
    closed = client.push_command_request("tb.close()", target_server=[1, 2], block=True)

    assert [(r["server"], r["successful"], r["ret"]) for r in closed] == [(1, True, True), (2, True, True)]
    responses = client.push_command_request("(tb.log, tb.cells['DATA', 1])", True, [1, 2])
    for response, name in zip(responses, ("x54.ms", "x220.ms"), strict=True):
        log, cell = response["ret"]
        assert log == [f"open {name}", "putcell DATA 1", "close"]
        assert np.array_equal(cell, [min(len(name), 90.0), len(name), 4.0, 4.0, 4.0])
