"""How `import casampi` and `import mpi4casa` come to mean ours. No MPI."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import types
from collections.abc import Iterator

import pytest

import mpiframe.compat.casampi
from mpiframe.compat.casampi import _alias, _books

NAMES = ("casampi", "mpi4casa")


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """What a test imports under their names is forgotten."""
    before = dict(sys.modules)
    yield
    for name in [n for n in sys.modules if n.split(".")[0] in NAMES]:
        del sys.modules[name]
    sys.modules.update({n: m for n, m in before.items() if n.split(".")[0] in NAMES})


@pytest.mark.parametrize("name", [*NAMES, "mpiframe.compat.mpi4casa"])
def test_a_module_is_the_same_under_every_name(name: str) -> None:
    assert importlib.import_module(f"{name}._books") is _books
    assert _books.__name__ == "mpiframe.compat.casampi._books"
    assert _books.__spec__ is not None
    assert _books.__spec__.name == "mpiframe.compat.casampi._books"
    assert importlib.import_module(name).__name__ in ("mpiframe.compat.casampi", "mpiframe.compat.mpi4casa")


def test_installing_again_changes_nothing() -> None:
    before = list(sys.meta_path)
    _alias.install()
    assert sys.meta_path == before
    assert len([f for f in sys.meta_path if isinstance(f, _alias._Finder)]) == 1


@pytest.mark.parametrize("name", ["casampi.nonesuch", "mpi4casa.private.nonesuch", "casampi._books.nonesuch"])
def test_modules_that_are_not_there(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


@pytest.mark.parametrize("name", ["casampix", "xcasampi", "mpi4casa2", "mpiframe.compat.casampi._logs", "os"])
def test_other_names_are_left_alone(name: str) -> None:
    assert _alias._Finder().find_spec(name) is None


def test_the_original_at_work_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "casampi.private.start_mpi"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with pytest.raises(ImportError, match="the original casampi was imported before"):
        _alias.install()
    monkeypatch.setitem(sys.modules, name, types.ModuleType("mpiframe.compat.casampi.private.start_mpi"))
    _alias.install()


def test_parts_of_the_original_that_do_nothing_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """casatasks may have looked for it before our import."""
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, _alias._Finder)])
    for name in ("casampi", "casampi.MPIEnvironment", "mpi4casa", "casampilike"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    _alias.install()
    assert importlib.import_module("casampi") is mpiframe.compat.casampi
    assert "casampi.MPIEnvironment" not in sys.modules
    assert "casampilike" in sys.modules
    assert isinstance(sys.meta_path[0], _alias._Finder)


def test_looking_for_it_imports_nothing() -> None:
    """As casatasks does, to see whether there is a casampi."""
    code = """
import importlib.util, sys
import mpiframe.compat.casampi
spec = importlib.util.find_spec("casampi")
there = importlib.util.find_spec("casampi.private.start_mpi") is not None
print(spec.name, there, "mpi4py" in sys.modules, "mpiframe.compat.casampi.private.start_mpi" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "casampi True False False\n"
