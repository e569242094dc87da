"""Arrays of every layout and of many bytes through the collectives, and several of them at once."""

from __future__ import annotations

import concurrent.futures

import numpy as np
import pytest

import mpiframe
from mpiframe.session import Session

pytestmark = pytest.mark.timeout(60)

_BIG = np.arange(60_000, dtype=np.float64)
LAYOUTS = {
    "c": _BIG.reshape(200, 300),
    "fortran": np.asfortranarray(_BIG.reshape(200, 300)),
    "transposed": _BIG.reshape(20, 30, 100).transpose(2, 0, 1),
    "strided": _BIG[::3],
    "backwards": _BIG[::-1],
    "columns": _BIG.reshape(200, 300)[:, 10:20],
    "read only": np.frombuffer(_BIG.tobytes()),
    "empty": np.empty((0, 7)),
    "no columns": np.empty((7, 0)),
    "no dimensions": np.array(3.5),
    "big endian": _BIG.astype(">f8"),
    "booleans": _BIG > 7,
    "structured": np.array([(n, n * 1j) for n in range(9000)], dtype=[("time", "M8[ns]"), ("vis", "c8")]),
    "strings": np.array(["abc", "de"] * 20_000),
    "objects": np.array([{"a": 1}, None, "x", [1, 2]] * 3, dtype=object),
}


@pytest.fixture(params=["near", "far"])
def place(request, monkeypatch):
    """Once as it is, and once as if every server were on another host."""
    if request.param == "far":
        monkeypatch.setattr(Session, "_is_near", lambda self, rank: False)


def check(got, sent):
    assert type(got) is type(sent)
    assert got.dtype == sent.dtype
    assert got.shape == sent.shape
    assert np.array_equal(got, sent)


@pytest.mark.parametrize("name", LAYOUTS)
def test_broadcast_of_layouts(client, place, name):
    sent = LAYOUTS[name]
    client.broadcast(array=sent)
    for response in client.push("array", "all", True):
        check(response.result(), sent)
    if name != "read only":
        assert all(r.result() for r in client.push("array.flags.writeable", "all", True))


@pytest.mark.parametrize("name", LAYOUTS)
def test_scatter_and_gather_of_layouts(client, servers, name):
    sent = LAYOUTS[name]
    if not sent.ndim:
        with pytest.raises(mpiframe.CommandArgumentError, match="without dimensions"):
            client.scatter(array=sent)
        return
    client.scatter(array=sent)
    got = client.gather("array")
    check(got, sent.astype(got.dtype) if name == "big endian" else sent)  # numpy joins them as native ones
    assert got.flags.writeable
    sizes = [r.result() for r in client.push("len(array)", "all", True)]
    assert sizes == [len(part) for part in np.array_split(sent, len(servers))]


@pytest.mark.parametrize("name", [n for n in LAYOUTS if LAYOUTS[n].dtype.kind in "bf"])
def test_reduce_of_layouts(client, servers, name):
    sent = LAYOUTS[name]
    client.broadcast(array=sent)
    expected = sent
    for _ in servers[1:]:
        expected = expected + sent
    got = client.reduce(np.add, "array")
    assert got.dtype.kind == sent.dtype.kind
    assert np.array_equal(got, expected)
    if isinstance(got, np.ndarray) and name != "read only":
        got += got  # it is the caller's own
    client.allreduce(np.add, "array", name="whole")
    for response in client.push("whole", "all", True):
        assert np.array_equal(response.result(), expected)


@pytest.mark.servers(2)
def test_numpy_says_what_it_cannot_add(client):
    client.broadcast(array=LAYOUTS["structured"])
    with pytest.raises(mpiframe.CommandError) as caught:
        client.reduce(np.add, "array")
    assert isinstance(caught.value.__cause__, TypeError)


def test_large_transfers_of_many_kinds_at_once(client, servers):
    """Both directions are full, by collectives and by plain commands, and nobody waits for another."""
    table = np.arange(4 << 20, dtype=np.float64)

    def push(number):
        got = client.push("part + 1", number % len(servers) + 1, True, {"part": table})[0].result()
        return np.array_equal(got, table + 1)

    def broadcast(number):
        client.broadcast(**{f"table{number}": table})
        return len(set(map(float, client.gather(f"float(table{number}[-1])")))) == 1

    def scatter(number):
        client.scatter(**{f"part{number}": table})
        return np.array_equal(client.gather(f"part{number}"), table)

    def reduce(number):
        client.broadcast(**{f"term{number}": table})
        return np.array_equal(client.reduce(np.add, f"term{number}"), len(servers) * table)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        works = [push, broadcast, scatter, reduce, push, scatter]
        futures = [pool.submit(work, number) for number, work in enumerate(works)]
        assert all(future.result(50) for future in futures)
    names = [f"{kind}{number}" for kind in ("table", "part", "term") for number in range(len(works))]
    client.push(f"for name in {names}: globals().pop(name, None)", "all", True)


def test_many_large_items_of_a_reduction(client):
    def make(n):
        import numpy

        return numpy.full(100_000, n, numpy.float64)

    assert (client.reduce(np.add, make, range(100)) == 4950).all()
    arrays = [np.full(20_000, n) for n in range(40)]
    assert (client.reduce(np.add, np.copy, arrays) == 780).all()
