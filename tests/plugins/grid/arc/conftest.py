"""Certificates, a stand-in for an element, and the real one where `MPIFRAME_TEST_ARC` asks for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpiframe.plugins.grid.arc import ComputingElement, Credentials
from tests.plugins.grid.arc.authority import Authority
from tests.plugins.grid.arc.double import Double

# `launch/test --arc` sets it; then an element that cannot be started is a failure, not a skip.
collect_ignore = [] if os.environ.get("MPIFRAME_TEST_ARC") == "1" else ["test_real.py"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that elements and users trust, and a user of it."""
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.user()
    return made


@pytest.fixture(scope="session")
def credentials(authority: Authority) -> Credentials:
    """Those of the user."""
    folder = authority.folder
    return Credentials(
        str(folder / "user-cert.pem"), str(folder / "user-key.pem"), authorities=str(authority.file)
    )


@pytest.fixture
def double(authority: Authority) -> Iterator[Double]:
    """An element that pretends, of version 1.0."""
    made = Double(authority)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def connect(double: Double, credentials: Credentials) -> Iterator[Callable[..., ComputingElement]]:
    """Makes clients of the double."""
    made: list[ComputingElement] = []

    def make(own: Credentials | None = None, timeout_seconds: float = 20.0) -> ComputingElement:
        made.append(ComputingElement(double.url, own or credentials, timeout_seconds=timeout_seconds))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def element(connect: Callable[..., ComputingElement]) -> ComputingElement:
    """A client of the double."""
    return connect()


@pytest.fixture
def run_sh(tmp_path: Path) -> Path:
    """A small program to send."""
    path = tmp_path / "run.sh"
    path.write_text('#!/bin/sh\necho "[$1] [$2]"; mkdir -p out/deep; cat in.dat >"out/deep/b c%.dat"\n')
    return path


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this host on which nobody listens, and nobody can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
