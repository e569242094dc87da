"""The classic sequence of a client that drives data reduction on two servers.

Each server opens its own data, several statements that build on one another go to both, and only
the last one blocks: the FIFO queue of each server keeps the order. numpy files stand in for the
measurement sets, and a median filter in numpy for the one of scipy.
"""

from __future__ import annotations

import numpy as np
import pytest

FILTER = """
import types
signal = types.SimpleNamespace(
    medfilt=lambda data: np.median(
        np.lib.stride_tricks.sliding_window_view(np.pad(data, 1), 3), axis=-1)
)
"""


def median_of_three(data):
    padded = np.pad(data, 1)
    return np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0)


def make_sets(folder):
    generator = np.random.default_rng(1)
    sets = {}
    for name in ("x54", "x220"):
        sets[name] = generator.normal(size=5000)
        np.save(folder / f"{name}.npy", sets[name])
    return sets


@pytest.mark.servers(2)
def test_open_on_two_servers_filter_on_both_block_on_the_last(client, tmp_path):
    sets = make_sets(tmp_path)
    both = [1, 2]
    client.push("import numpy as np", target=both)
    for server, name in zip(both, sets, strict=True):
        client.push(f"path = {str(tmp_path / name)!r}", target=server)
    ids = [client.push("tb = np.load(path + '.npy', mmap_mode='r+')", target=both)]
    ids.append(client.push("data = tb[:].copy()", target=both))
    ids.append(client.push(FILTER, target=both))
    ids.append(client.push("filt_data = signal.medfilt(data)", target=both))
    ids.append(client.push("tb[:] = filt_data", target=both))
    last = client.push("tb.flush(); del tb", target=both, block=True)
    assert [r.server for r in last] == both
    assert all(r.successful for r in last), [r.traceback for r in last]
    # Those before have ended too, in this order, on each server.
    earlier = client.get(ids, block=False)
    assert len(earlier) == 2 * len(ids)
    for server in both:
        starts = [r.started_at for r in earlier if r.server == server]
        assert starts == sorted(starts)
    for name, data in sets.items():
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), median_of_three(data))


def test_the_same_with_a_parameter_instead_of_a_string(client, tmp_path):
    sets = make_sets(tmp_path)
    first = client.push("import numpy as np; np.load(vis).sum()", 1, False, {"vis": "missing"})
    ids = [
        client.push("np.load(vis).sum()", target=1, parameters={"vis": str(tmp_path / f"{n}.npy")})
        for n in sets
    ]
    failed, *sums = client.get([first, *ids], block=True)
    assert not failed.successful
    assert "FileNotFoundError" in failed.traceback
    assert [r.ret for r in sums] == [data.sum() for data in sets.values()]
