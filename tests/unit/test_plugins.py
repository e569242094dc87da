"""Plugins: found by name, checked, and usable without MPI."""

from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

import mpiframe
from mpiframe.errors import CommandError, PluginError
from mpiframe.plugins import base, registry
from mpiframe.plugins.base import Context, Plugin, command


class Echo(Plugin):
    """Says it again."""

    name = "echo"

    @dataclass
    class Options:
        times: int = 1
        prefix: str = ""
        hidden: list[int] = field(default_factory=list, init=False)

        def __post_init__(self) -> None:
            if self.times < 1:
                raise ValueError(f"times must be 1 or more, not {self.times}")

    def start(self, context: Context) -> None:
        context.emit("started")

    @command
    def say(self, text: str) -> str:
        """Say it.

        As often as the options want.
        """
        return self.context.config.prefix + text * self.context.config.times

    @command
    def later(self) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(3)
        return future

    def helper(self) -> None:
        """Is no command."""


class Louder(Echo):
    name = "louder"

    @command
    def shout(self) -> str:
        """Shout."""
        return "!"

    def later(self) -> Future[int]:
        """No command here any more."""
        return super().later()


class Plain(Plugin):
    name = "plain"


class Nameless(Plugin):
    pass


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins of this module, installed as a package would do it."""
    here = __name__
    entries = [
        importlib.metadata.EntryPoint(name, value, registry.GROUP)
        for name, value in [
            ("echo", f"{here}:Echo"),
            ("plain", f"{here}:Plain"),
            ("broken", "no_such_module_here:Plugin"),
            ("function", f"{here}:pytest"),
            ("nameless", f"{here}:Nameless"),
            ("missing", f"{here}:Missing"),
        ]
    ]

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [entry for entry in entries if entry.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setitem(sys.modules, here, sys.modules[here])


# -- finding --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_a_plugin_is_found_by_its_name() -> None:
    assert registry.find("echo") is Echo
    assert registry.available() == ["broken", "echo", "function", "missing", "nameless", "plain"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ecko", "there is no plugin 'ecko'; did you mean 'echo'?"),
        ("xyzzy", "there is no plugin 'xyzzy'. Installed plugins: "),
        ("", "there is no plugin ''. Installed plugins: "),
    ],
)
def test_an_unknown_name_is_told_with_the_choices(name: str, says: str) -> None:
    with pytest.raises(PluginError) as caught:
        registry.find(name)
    assert str(caught.value).startswith(says)
    assert "did you mean" in says or "did you mean" not in str(caught.value)
    for known in registry.available():
        assert known in str(caught.value)
    assert isinstance(caught.value, CommandError)


def test_where_no_plugin_is_installed_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [])
    with pytest.raises(PluginError, match="Installed plugins: none"):
        registry.find("echo")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", "cannot be imported: ModuleNotFoundError"),
        ("missing", "cannot be imported: AttributeError"),
        ("function", "no subclass of mpiframe.Plugin"),
        ("nameless", "Nameless has no name"),
    ],
)
def test_a_plugin_that_is_none_is_told(name: str, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        registry.find(name)


@pytest.mark.parametrize("found", [None, 3, "echo", Echo(), dict, Plugin])
def test_what_is_no_plugin_class(found: Any) -> None:
    with pytest.raises(PluginError):
        registry.check_class(found, "it")


# -- options --------------------------------------------------------------------------------------


def test_options_are_made_of_what_is_given() -> None:
    options = registry.make_options(Echo, {"times": 3})
    assert options == Echo.Options(3, "")
    assert registry.make_options(Echo, {}) == Echo.Options()
    assert registry.make_options(Plain, {}) is None


@pytest.mark.parametrize(
    ("plugin", "given", "says"),
    [
        (Plain, {"a": 1, "b": 2}, "plugin 'plain' takes no options, so not a, b"),
        (Echo, {"time": 3}, "plugin 'echo' has no option 'time'; did you mean 'times'?"),
        (Echo, {"xyzzy": 3}, "plugin 'echo' has no option 'xyzzy'. Its options: "),
        (Echo, {"hidden": [1]}, "plugin 'echo' has no option 'hidden'"),
        (Echo, {"times": 0}, "plugin 'echo' refuses its options: times must be 1 or more, not 0"),
        (Echo, {"times": "x"}, "plugin 'echo' refuses its options: '<' not supported"),
    ],
)
def test_options_it_does_not_take(plugin: type[Plugin], given: dict[str, Any], says: str) -> None:
    with pytest.raises(PluginError) as caught:
        registry.make_options(plugin, given)
    assert str(caught.value).startswith(says)
    if "has no option" in says:
        assert str(caught.value).endswith("Its options: times, prefix")


def test_an_option_without_a_default_is_wanted() -> None:
    class Needy(Plugin):
        name = "needy"

        @dataclass
        class Options:
            path: str

    with pytest.raises(PluginError, match=r"refuses its options: .*'path'"):
        registry.make_options(Needy, {})


# -- commands -------------------------------------------------------------------------------------


def test_commands_and_their_first_lines() -> None:
    assert Echo.commands() == {"say": "Say it.", "later": ""}
    assert Plain.commands() == {}
    assert Louder.commands() == {"say": "Say it.", "shout": "Shout."}


def test_the_mark_changes_nothing_else() -> None:
    def method(self: object) -> int:
        return 3

    assert command(method) is method
    assert method(None) == 3


def test_the_public_names_are_these() -> None:
    assert mpiframe.Plugin is base.Plugin
    assert mpiframe.command is base.command
    assert mpiframe.Context is base.Context


# -- without MPI ----------------------------------------------------------------------------------


def test_a_plugin_is_an_ordinary_class() -> None:
    events: list[Any] = []
    plugin = Louder()
    plugin.context = Context(
        config=Echo.Options(2, "> "),
        log=logging.getLogger("test"),
        emit=events.append,
        rank=1,
        host="here",
        ranks=2,
    )
    plugin.start(plugin.context)
    assert plugin.say("ho") == "> hoho"
    assert plugin.later().result(0) == 3
    plugin.stop()
    assert events == ["started"]


def test_the_base_class_needs_nothing_but_a_name() -> None:
    plugin = Plain()
    plugin.start(Context(None, logging.getLogger("test"), print, 1, "here", 2))
    plugin.stop()
    names: ClassVar[list[str]] = [Plain.name, Louder.name]
    assert names == ["plain", "louder"]


def test_plugins_do_not_load_mpi() -> None:
    program = (
        "import sys, mpiframe.plugins.registry, mpiframe.plugins.base\n"
        "from mpiframe import Plugin, command, Context\n"
        "sys.exit(', '.join(m for m in ('mpi4py', 'numpy', 'cloudpickle') if m in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert run.stderr.strip() == b""
