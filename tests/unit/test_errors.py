"""The tree of errors: what each one is, and that it survives a journey."""

from __future__ import annotations

import concurrent.futures
import copy
import importlib.util
import pickle
import sys
from types import ModuleType
from typing import Any

import pytest

from mpiframe import errors
from mpiframe.errors import MpiframeError

TREE = {
    "MpiframeError": (Exception,),
    "CommandError": (MpiframeError,),
    "PluginError": (MpiframeError, errors.CommandError),
    "CommandSyntaxError": (MpiframeError, SyntaxError),
    "CommandArgumentError": (MpiframeError, TypeError),
    "TargetError": (MpiframeError, ValueError),
    "RequestError": (MpiframeError, LookupError),
    "ServerLost": (MpiframeError,),
    "JournalError": (MpiframeError,),
    "CommandTimeout": (MpiframeError, TimeoutError, concurrent.futures.TimeoutError),
    "CommandCancelled": (MpiframeError, concurrent.futures.CancelledError),
    "SerializationError": (MpiframeError, TypeError),
    "WorldError": (MpiframeError, RuntimeError),
    "RemoteException": (MpiframeError,),
    "GroupBroken": (MpiframeError,),
}


def classes(module: ModuleType) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }


def test_the_tree_is_complete() -> None:
    assert set(classes(errors)) == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_each_error_is_what_it_says(name: str) -> None:
    kind = getattr(errors, name)
    for base in TREE[name]:
        assert issubclass(kind, base)
    assert kind.__doc__
    error = kind("what happened")
    assert str(error) == "what happened"


def test_errors_of_other_sorts_are_not_mixed_up() -> None:
    assert not issubclass(errors.CommandError, RuntimeError)
    assert not issubclass(errors.ServerLost, errors.CommandError)
    assert not issubclass(errors.CommandTimeout, errors.CommandError)


@pytest.mark.parametrize("name", TREE)
@pytest.mark.parametrize("protocol", [2, 5])
def test_each_error_can_be_pickled(name: str, protocol: int) -> None:
    error = getattr(errors, name)("what happened")
    error.note = ["kept"]
    for back in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(back) is type(error)
        assert str(back) == "what happened"
        assert back.args == error.args
        assert back.note == ["kept"]


@pytest.mark.parametrize("kind", [errors.CommandError, errors.PluginError])
def test_where_a_command_failed_travels_with_its_error(kind: type[errors.CommandError]) -> None:
    error = kind("text", request=3, server=2, host="node7", remote_traceback="Traceback ...")
    back = pickle.loads(pickle.dumps(error))
    assert (back.request, back.server, back.host) == (3, 2, "node7")
    assert back.remote_traceback == "Traceback ..."
    bare = kind("text")
    assert (bare.request, bare.server, bare.host, bare.remote_traceback) == (None,) * 4


@pytest.mark.parametrize(
    ("details", "text"),
    [
        (("<command>", 2, 5, "y = = 1\n"), "bad (line 2)\n    y = = 1\n        ^"),
        (("<command>", 1, 7, "  y = = 1\n"), "bad (line 1)\n    y = = 1\n        ^"),
        (("<command>", 1, None, "y"), "bad (line 1)\n    y\n    ^"),
        (("<command>", 1, 0, "y"), "bad (line 1)\n    y\n    ^"),
        (("<command>", 1, 1, None), "bad"),
        (None, "bad"),
    ],
)
def test_a_syntax_error_shows_its_caret(details: Any, text: str) -> None:
    error = errors.CommandSyntaxError("bad", details)
    assert str(error) == text
    back = pickle.loads(pickle.dumps(error))
    assert str(back) == text
    assert back.lineno == error.lineno


def load_again(name: str) -> ModuleType:
    assert errors.__file__ is not None
    spec = importlib.util.spec_from_file_location(name, errors.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_timeout_is_both_timeouts_where_these_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    # Before Python 3.11 that of `concurrent.futures` was a class of its own.
    class OldTimeoutError(concurrent.futures._base.Error):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(concurrent.futures, "TimeoutError", OldTimeoutError)
        patch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
        old = load_again("errors_of_3_10")
    for base in (old.MpiframeError, TimeoutError, OldTimeoutError):
        with pytest.raises(base):
            raise old.CommandTimeout("too long")
    assert str(old.CommandTimeout("too long")) == "too long"


def test_a_timeout_is_caught_by_either_name_here() -> None:
    for base in (TimeoutError, concurrent.futures.TimeoutError, OSError):
        with pytest.raises(base):
            raise errors.CommandTimeout("too long")
