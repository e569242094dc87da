"""The house keeps its floors, its names and its manners: read from the sources, nothing is run."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mpiframe
from mpiframe import ctrl_c

PACKAGE = Path(mpiframe.__file__).parent

FLOORS = {
    0: ["wording", "errors", "messages", "config"],
    1: [
        "machine",
        "instructions",
        "pace",
        "queues",
        "turns",
        "attached.roster",
        "memory",
        "codec",
        "namespace",
        "shell.cells",
        "fingerprint",
        "database",
        "journal",
        "trace_file",
        "output",
        "bars",
        "displays",
        "plugins",
        "plugins.base",
        "plugins.panels",
        "plugins.registry",
    ],
    2: [
        "launcher",
        "launcher.environment",
        "launcher.foreground",
        "launcher.library",
        "launcher.orders",
        "launcher.planning",
        "launcher.processes",
        "launcher.resilient",
        "launcher.running",
        "launcher.supervise",
        "doorbell",
        "hub.wire",
        "transport",
        "newcomer",
        "ends",
        "starting",
        "joining",
        "fuse",
        "world",
        "stuck",
        "opening",
        "commands",
        "targets",
        "answers",
        "execution",
        "group_comm",
        "worlds.folders",
        "worlds.places",
        "worlds.secure",
    ],
    3: [
        "control",
        "ctrl_c",
        "outgoing",
        "pulse",
        "server",
        "plugin_host",
        "proxy",
        "observers",
        "lines",
        "ahead",
        "pressed",
        "client_loop",
        "driver",
        "log_forwarder",
        "hearing",
        "mapping",
        "progress",
        "recording",
        "group",
        "collectives",
        "together",
        "verbs",
        "process",
        "recovery",
        "trace",
        "views",
        "session",
        "client",
        "watch",
        "watch.snapshots",
        "hub",
        "hub.session",
        "hub.sessions",
        "hub.calls",
        "hub.server",
        "worlds.hosting",
        "attached",
        "attached.loop",
        "attached.client",
    ],
    5: [
        "",
        "__main__",
        "runner",
        "cli",
        "doctor",
        "worlds.background",
        "worlds.ending",
        "attached.attaching",
        "attached.launching",
        "worlds",
        "worlds.start",
        "worlds.stop",
        "worlds.listing",
        "worlds.key",
        "worlds.attach",
        "watch.source",
        "shell.jupyter",
        "watch.top",
        "report",
        "report.reading",
        "report.analysis",
        "report.words",
        "report.picture",
        "shell.magics",
        "shell",
        "shell.__main__",
        "shell.command_line",
        "shell.prompt",
        "shell.ipython",
        "shell.live",
        "shell.plain",
        "shell.rank0",
        "shell.tracebacks",
        "worlds._hosted",
        "_roundtrip",
        "_survival",
    ],
}
"""Floor 4 holds the plugins that come with the package: every other module below `plugins`."""

FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}

PUBLIC = [
    "Client",
    "CommandArgumentError",
    "CommandCancelled",
    "CommandError",
    "CommandSyntaxError",
    "CommandTimeout",
    "Context",
    "Journal",
    "JournalError",
    "MpiframeError",
    "Plugin",
    "PluginError",
    "RequestError",
    "Response",
    "SerializationError",
    "ServerLost",
    "TargetError",
    "WorldError",
    "attach",
    "command",
    "launch",
]

MAY_SLEEP = {
    ("transport", "block"): "back-off where there is no doorbell, in steps epoll cannot count",
    ("opening", "_until"): "back-off before there is a doorbell",
    ("machine", "await_rest"): "nothing tells when another process has gone to sleep",
    ("group_comm", "_until"): "back-off while another member of a collective computes",
    ("worlds.ending", "await_gone"): "a kernel that does not tell when a process has ended",
    ("plugins.difx.gateway_session", "run"): "0 s: a turn of asyncio's loop, not a pause",
    ("_roundtrip", "main"): "the pause is what is measured",
    ("_survival", "main"): "the command that is killed; the function is only named",
}


def name_of(path: Path) -> str:
    """A module's name below the package; the package itself is the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(module: str) -> int | None:
    if module in FLOOR_OF:
        return FLOOR_OF[module]
    if module.startswith("plugins."):
        return 4
    if module.split(".")[0] == "compat" or module.startswith("watch.dashboard"):
        return 5
    return None


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from statements(other)
            continue
        yield child
        yield from statements(child)


def below(dotted: str) -> str | None:
    """`mpiframe.x.y` -> `x.y`; None for what is not ours."""
    if dotted == "mpiframe":
        return ""
    return dotted[len("mpiframe.") :] if dotted.startswith("mpiframe.") else None


def imports(module: str, tree: ast.AST) -> set[str]:
    """The modules of the package that this one imports, at its top or inside functions."""
    found: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.Import):
            found.update(m for m in (below(alias.name) for alias in node.names) if m is not None)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = ["mpiframe", *module.split(".")] if module else ["mpiframe"]
                if MODULES[module].name != "__init__.py":
                    package = package[:-1]
                package = package[: len(package) - node.level + 1]
                source = ".".join([*package, *filter(None, [source])])
            base = below(source)
            if base is None:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                found.add(inner if inner in MODULES else base)
    return found - {module}


GRAPH = {module: imports(module, tree_of(module)) for module in MODULES}


# -- floors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_a_floor(module: str) -> None:
    assert floor_of(module) is not None, f"give {module} a floor in {Path(__file__).name}"


def test_each_floor_names_modules_that_are_there() -> None:
    assert set(FLOOR_OF) <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_downwards(module: str) -> None:
    own = floor_of(module)
    assert own is not None
    for other in GRAPH[module]:
        floor = floor_of(other)
        assert floor is not None
        assert floor <= own, f"{module} (floor {own}) imports {other} (floor {floor})"


@pytest.mark.parametrize("floor", [0, 1, 2, 3, 4, 5])
def test_no_floor_goes_round_in_circles(floor: int) -> None:
    here = {m: {o for o in GRAPH[m] if floor_of(o) == floor} for m in MODULES}
    order = graphlib.TopologicalSorter({m: o for m, o in here.items() if floor_of(m) == floor})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", [m for m in MODULES if floor_of(m) == 4] or [""])
def test_a_plugin_never_imports_the_client_nor_another_plugin(module: str) -> None:
    own = module.split(".")[:2]
    for other in GRAPH[module] if module else ():
        if floor_of(other) == 4:
            assert other.split(".")[:2] == own, f"{module} imports {other}"
        assert floor_of(other) != 3, f"{module} imports {other}"


@pytest.mark.parametrize("module", [m for m in MODULES if floor_of(m) in (0, 1)])
def test_the_two_lowest_floors_know_nothing_of_mpi(module: str) -> None:
    for node in statements(tree_of(module)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not [name for name in names if name.split(".")[0] == "mpi4py"]


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("cli", "import mpiframe", {""}),
        ("cli", "from mpiframe import codec, __version__", {"codec", ""}),
        ("cli", "import mpiframe.codec as c, os", {"codec"}),
        ("cli", "from mpiframe.launcher import plan, library", {"launcher", "launcher.library"}),
        ("launcher.library", "from . import planning", {"launcher.planning"}),
        ("launcher", "from .planning import plan", {"launcher.planning"}),
        ("launcher.library", "from ..errors import WorldError", {"errors"}),
        ("cli", "def f():\n  from mpiframe import server", {"server"}),
        ("cli", "if TYPE_CHECKING:\n  from mpiframe import server\nelse:\n  import mpiframe", {""}),
        ("cli", "import typing\nif typing.TYPE_CHECKING:\n  import mpiframe.server", set()),
        ("cli", "import mpiframes, os.path", set()),
    ],
)
def test_imports_are_read_rightly(module: str, source: str, expected: set[str]) -> None:
    assert imports(module, ast.parse(source)) == expected


# -- names ----------------------------------------------------------------------------------------


def test_the_public_names_are_these() -> None:
    assert mpiframe.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(mpiframe))
    with pytest.raises(AttributeError, match="no_such_name"):
        mpiframe.no_such_name  # noqa: B018 - asking for it is the test


def test_each_public_name_can_be_had() -> None:
    # Not imported here: Client's module starts MPI.
    assert mpiframe._LATE["Client"] == "mpiframe.client"
    assert "Client" in [n.name for n in tree_of("client").body if isinstance(n, ast.ClassDef)]
    for name in PUBLIC:
        if name != "Client":
            value = getattr(mpiframe, name)
            assert value.__doc__, f"{name} has no docstring"
            assert getattr(importlib.import_module(value.__module__), name) is value


def test_each_module_says_what_it_is_for() -> None:
    silent = [name for name in MODULES if not ast.get_docstring(tree_of(name))]
    assert silent == []


def test_the_modules_that_ctrl_c_must_not_tear_are_there() -> None:
    named = {*ctrl_c._KEEPING_BOOKS, *ctrl_c._PRINTING}
    assert {below(name) for name in named} <= set(MODULES)


# -- manners --------------------------------------------------------------------------------------


def sleepers(tree: ast.Module) -> Iterator[str]:
    """The functions that use `time.sleep`, by whatever name; "" for the module itself."""

    def visit(node: ast.AST, function: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = function
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = child.name
            if isinstance(child, ast.ImportFrom) and child.module == "time":
                if any(alias.name == "sleep" for alias in child.names):
                    yield inner
            elif isinstance(child, ast.Attribute) and child.attr == "sleep":
                yield inner
            yield from visit(child, inner)

    return visit(tree, "")


@pytest.mark.parametrize("module", MODULES)
def test_nothing_polls_with_a_fixed_sleep(module: str) -> None:
    for function in sleepers(tree_of(module)):
        assert (module, function) in MAY_SLEEP, f"{module}.{function or '(top)'} sleeps"


def test_those_who_may_sleep_do() -> None:
    assert {(m, f) for m in MODULES for f in sleepers(tree_of(m))} == set(MAY_SLEEP)


def test_a_sleep_is_seen_wherever_it_hides() -> None:
    source = "import time as t\nfrom time import sleep\ndef f():\n  def g(): t.sleep(1)"
    assert sorted(sleepers(ast.parse(source))) == ["", "g"]


@pytest.mark.parametrize("module", MODULES)
def test_no_error_is_swallowed_whole(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), node.lineno


# -- the price of an import -----------------------------------------------------------------------

HEAVY = ["mpi4py", "mpi4py.MPI", "numpy", "cloudpickle"]


@pytest.mark.parametrize(
    "first",
    [
        "mpiframe",
        "mpiframe.cli",
        "mpiframe.launcher",
        "mpiframe.attached.attaching",
        "mpiframe.attached.launching",
        "mpiframe.queues",
        "mpiframe.codec",
        "mpiframe.namespace",
        "mpiframe.commands",
        "mpiframe.plugins.registry",
    ],
)
def test_importing_is_cheap_and_starts_nothing(first: str) -> None:
    program = f"import sys, {first}\nprint([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip() == "[]"


def test_who_attaches_loads_nothing_of_the_launcher_nor_of_the_command_line() -> None:
    program = "import sys, mpiframe.attached.attaching\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name for name in map(below, run.stdout.split()) if name is not None}
    assert "attached.attaching" in loaded
    unwanted = {m for m in MODULES if m.startswith(("launcher.", "shell."))} | {"cli", "doctor", "runner"}
    assert loaded & unwanted == {"launcher.environment", "shell.jupyter"}
