"""Large data both ways: whole, writable, its own, in any layout."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(60)

BOUNDARY = 64 * 1024  # bytes from which a buffer travels beside its message
SIZES = [0, 1, 1024, BOUNDARY - 8, BOUNDARY, BOUNDARY + 8, 1 << 20, 64 << 20]


def back(*values):
    return values[0] if len(values) == 1 else values


def facts(array):
    flags = array.flags
    return array.dtype.str, array.shape, flags.c_contiguous, flags.f_contiguous, flags.writeable


def doubled(array):
    array *= 2  # it is the receiver's own
    return array


def pattern(size):
    return np.arange(size, dtype=np.uint64).astype(np.uint8)


@pytest.mark.smoke
@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_an_array_both_ways(client, size):
    sent = pattern(size)
    got = client.submit(back, sent, target=1).result(30)
    assert got.dtype == sent.dtype
    assert got.flags.writeable
    assert np.array_equal(got, sent)
    got[:] = 0
    assert np.array_equal(sent, pattern(size))


@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_a_result(client, size):
    client.push("import numpy as np", target=1)
    command = "np.arange(size, dtype=np.uint64).astype(np.uint8)"
    got = client.push(command, 1, True, {"size": size})[0].result()
    assert np.array_equal(got, pattern(size))
    got += 1


@pytest.mark.parametrize("size", SIZES)
def test_long_strings_and_bytes(client, size):
    data = pattern(size).tobytes()
    for value in (data, bytearray(data), memoryview(data).tobytes(), data.decode("latin-1")):
        got = client.submit(back, value, target=1).result(30)
        assert type(got) is type(value)
        assert got == value


def test_strings_with_halves_of_surrogates(client):
    text = "\ud800" * BOUNDARY
    assert client.submit(back, text, target=1).result(30) == text


_BIG = np.arange(60_000, dtype=np.float64)
LAYOUTS = {
    "c": _BIG.reshape(200, 300),
    "fortran": np.asfortranarray(_BIG.reshape(200, 300)),
    "transposed": _BIG.reshape(20, 30, 100).transpose(2, 0, 1),
    "strided": _BIG[::3],
    "backwards": _BIG[::-1],
    "columns": _BIG.reshape(200, 300)[:, 10:20],
    "broadcast": np.broadcast_to(np.float32(1), (300, 300)),
    "read only": np.frombuffer(_BIG.tobytes()),
    "empty": np.empty((0, 7)),
    "scalar": np.array(3.5),
    "big endian": _BIG.astype(">f8"),
    "complex": _BIG * 1j,
    "booleans": _BIG > 7,
    "structured": np.zeros(20_000, dtype=[("time", "M8[ns]"), ("vis", "c8", (4,))]),
    "strings": np.array(["abc", "de"] * 20_000),
    "objects": np.array([{"a": 1}, None, "x"], dtype=object),
    "masked": np.ma.masked_greater(_BIG, 5),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(client, name):
    sent = LAYOUTS[name]
    got = client.submit(back, sent, target=1).result(30)
    assert type(got) is type(sent)
    assert got.dtype == sent.dtype
    assert got.shape == sent.shape
    assert np.array_equal(got, sent)
    if name in ("c", "fortran", "strided", "scalar"):
        assert got.flags.writeable
    if name in ("c", "fortran"):
        seen = client.submit(facts, sent, target=1).result(30)
        assert seen == (sent.dtype.str, sent.shape, name == "c", name == "fortran", True)


def test_the_receiver_owns_what_it_gets(client, servers):
    sent = pattern(1 << 20)
    futures = [client.submit(doubled, sent, target=server) for server in servers]
    for future in futures:
        assert np.array_equal(future.result(30), sent * np.uint8(2))
    assert np.array_equal(sent, pattern(1 << 20))


def test_several_arrays_at_once(client):
    values = [pattern(BOUNDARY * n + n) for n in range(8)]
    got = client.submit(back, *values, {"deep": [values[3]]}, target=1).result(30)
    for sent, received in zip(values, got, strict=False):
        assert np.array_equal(sent, received)
    assert np.array_equal(got[-1]["deep"][0], values[3])


def test_one_array_twice_is_one_array(client):
    array = pattern(1 << 20)
    first, second = client.submit(back, array, array, target=1).result(30)
    assert first is second


def test_large_arguments_and_results_at_once(client, servers):
    """Both directions are full, and neither side may wait for the other."""
    arrays = [np.full(2 << 20, n, np.float64) for n in range(4)]
    futures = [client.submit(back, a, target=s) for a in arrays for s in servers]
    for number, future in enumerate(futures):
        assert (future.result(60) == number // len(servers)).all()


def test_long_words_beside_arrays(client, servers):
    """What announces an array may itself be longer than what MPI sends at once; the order is kept."""
    sizes = (10, 3_000, 5_000, 30_000, 60_000, 70_000)
    pairs = [("w" * size, np.full(length, size)) for size in sizes for length in (3, 20_000)] * 3
    futures = [
        client.submit(lambda words, array: (array + 1, words + "!"), *pair, target=rank)
        for pair in pairs
        for rank in servers
    ]
    results = iter([future.result() for future in futures])
    for words, array in pairs:
        for _ in servers:
            more, longer = next(results)
            assert longer == words + "!"
            assert np.array_equal(more, array + 1)


def test_large_results_that_nobody_waits_for_yet(client, servers):
    ids = [client.push("bytes(20 << 20)", target="all") for _ in range(2)]
    for response in client.get(ids):
        assert len(response.result()) == 20 << 20


def test_many_medium_arrays(client):
    array = np.arange(12_500.0)  # 100 kB
    futures = [client.submit(back, array + n) for n in range(200)]
    for n, future in enumerate(futures):
        assert future.result(30)[0] == n


def test_a_large_parameter_for_all(client, servers):
    array = pattern(8 << 20)
    ids = client.push("int(table.sum())", "all", parameters={"table": array})
    assert {r.result() for r in client.get(ids)} == {int(array.sum())}


def test_a_large_array_in_a_closure(client, servers):
    table = pattern(1 << 20)

    def look(index):
        return int(table[index])

    assert [client.submit(look, 5, target=s).result(30) for s in servers] == [5] * len(servers)


def test_a_large_array_in_an_exception(client):
    def fail():
        error = ValueError("with data")
        error.data = np.zeros(1 << 18)
        raise error

    error = client.submit(fail, target=1).exception(30)
    assert error.__cause__.data.nbytes == 8 << 18


def test_large_items_of_a_map(client):
    items = [np.full(50_000, n) for n in range(20)]
    for n, got in enumerate(client.map(back, items, chunksize=3)):
        assert (got == n).all()
