"""Makes `import casampi` and `import mpi4casa` mean the package here, under every one of its names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

_HERE = "mpiframe.compat.casampi"
_NAMES = ("casampi", "mpi4casa", "mpiframe.compat.mpi4casa")


def install() -> None:
    """Answer for those names from now on; a second call changes nothing.

    Raises ImportError if the original casampi is at work in this process: it has taken the servers.
    """
    if "casampi.private.start_mpi" in sys.modules and _original(sys.modules["casampi.private.start_mpi"]):
        raise ImportError(
            "the original casampi was imported before mpiframe.compat.casampi (by casatasks, most likely), "
            "and the server ranks wait for it now. Import mpiframe.compat.casampi first, or run the script "
            "by `mpiframe run -n N --casampi script.py`"
        )
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    for name in [n for n in sys.modules if n.split(".")[0] in ("casampi", "mpi4casa")]:
        del sys.modules[name]  # parts of the original that do nothing by themselves
    sys.meta_path.insert(0, _Finder())


def _original(module: types.ModuleType) -> bool:
    return not module.__name__.startswith(_HERE)


class _Finder(MetaPathFinder):
    """Finds our module for a name of theirs."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        for name in _NAMES:
            if fullname.startswith(name + ".") or (fullname == name and "." not in name):
                break
        else:
            return None
        rest = fullname[len(name) :]
        # In CASA 5 the private modules stood beside the others.
        for real in (_HERE + rest, f"{_HERE}.private{rest}"):
            if importlib.util.find_spec(real) is not None:
                return ModuleSpec(fullname, _Loader(real))
        return None


class _Loader(Loader):
    """Gives the very module that has another name already."""

    def __init__(self, real: str) -> None:
        self._real = real
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        del spec
        module = importlib.import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just put the alias's there
