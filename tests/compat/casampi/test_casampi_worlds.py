"""Runs the suite in `world/` on rank 0 of real worlds: every MPI, 2, 3 and 5 ranks."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

SUITE = Path(__file__).parent / "world"
SECONDS = 150.0  # ten as a rule; five ranks on one core that others want, too, take more than sixty
ONE_TEST = 60.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    found = metafunc.config.pluginmanager.get_plugin(str(SUITE.parents[2] / "conftest.py"))
    cases = []
    for python in found.pythons():  # type: ignore[union-attr]
        for ranks in (3,) if python.is_site else (2, 3, 5):
            quick = {"openmpi": (5,), "mpich": (2,)}.get(python.name, (3,))
            marks = [] if ranks in quick else [pytest.mark.long]
            cases.append(pytest.param(python, ranks, id=f"{python.name}-{ranks}", marks=marks))
    metafunc.parametrize(("python", "ranks"), cases)


@pytest.mark.timeout(SECONDS + 30)
def test_the_suite_in_a_world(
    launching_with: Callable[[Any], AbstractContextManager[Any]], python: Any, ranks: int
) -> None:
    words = ["--casampi", "-m", "pytest", str(SUITE), "-p", "no:cacheprovider", "--junit-xml=result.xml"]
    words += [f"--timeout={ONE_TEST}"]
    with launching_with(python) as launcher:
        world = launcher.start(words, ranks, env={"MPIFRAME_TEST_RANKS": str(ranks)})
        ended = world.wait(SECONDS).expect(0)
        suite = ElementTree.parse(world.folder / "result.xml").find(".//testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    assert counts.pop("tests") > 0, ended.said
    assert counts == {"failures": 0, "errors": 0, "skipped": 0}, ended.said
