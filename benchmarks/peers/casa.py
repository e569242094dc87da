"""The original casampi, where it and CASA are installed. See benchmarks/casampi.py for more about it alone.

It starts its servers when it is imported, and a command takes it half a second.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .base import Peer

_MEASURES = Path(__file__).resolve().parents[2] / "tests" / "compat" / "casa" / "measures_data.py"


class ThePeer(Peer):
    """Commands are strings; what it has no words for, it is not asked."""

    def start(self) -> bool:
        # On the ranks that serve, this import does not come back.
        import casampi.private.start_mpi  # noqa: F401
        from casampi.MPICommandClient import MPICommandClient

        self._client = MPICommandClient()
        self._client.start_services()
        self.noop()
        return True

    def stop(self) -> None:
        self._client.stop_services()

    def _value(self, command: str, **parameters: Any) -> Any:
        (response,) = self._client.push_command_request(command, True, 1, parameters or None)
        if not response["successful"]:
            raise RuntimeError(response["traceback"])
        return response["ret"]

    def server_pids(self) -> set[int]:
        command = "__import__('os').getpid()"
        every = list(range(1, self.servers + 1))
        return {answer["ret"] for answer in self._client.push_command_request(command, True, every)}

    def noop(self) -> None:
        self._value("None")

    def submit_many(self, n: int) -> None:
        ids = [self._client.push_command_request("None")[0] for _ in range(n)]
        answers = self._client.get_command_response(ids, True)
        assert all(answer["successful"] for answer in answers)


def prepare(folder: Path) -> None:
    """Lay out what CASA wants to find: small measures data of our own, and the settings that name them.

    Raises CalledProcessError where there is no CASA.
    """
    spec = importlib.util.spec_from_file_location("measures_data", _MEASURES)
    assert spec is not None
    assert spec.loader is not None
    measures_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measures_data)
    settings = folder / "site.py"
    settings.write_text(measures_data.site_config(folder / "data", folder / "casa.log"), encoding="utf-8")
    os.environ["CASASITECONFIG"] = str(settings)
    subprocess.run([sys.executable, str(_MEASURES), str(folder / "data")], check=True, timeout=60)
