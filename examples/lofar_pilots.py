"""An observation of LOFAR as tokens, worked off by pilots on MPI servers.

    launch/pilots                                  installs all that this needs, and runs it
    mpiframe run -n 4 examples/lofar_pilots.py --url https://couch.example.org:6984   a CouchDB of your own

51 links of the archive, one a subband, become tokens of ten subbands each, with their links attached. The
files are "staged": really asked for by gfal2, from its mock storage, where gfal2 is there; else that is left
out, and said. Then each token is claimed by a server, which makes the visibilities that the files would hold
(a source of known spectrum, noise, interference), flags and averages them, and measures the source's flux in
each subband. The results are in the tokens; at the end a power law is fitted to all of them.

Without --url a CouchDB-compatible server is started for this run alone: pouchdb-server, on this host, with a
password that nobody else knows. Credentials for --url come from ~/.picasrc or PICAS_USR and PICAS_USR_PWD.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mpiframe
from mpiframe.plugins.grid import Credentials, Database, Token, TokenList, TokenSet
from mpiframe.plugins.grid.gfal import Gfal
from mpiframe.plugins.grid.srmlist import slice_dicts, srmlist
from mpiframe.plugins.grid.staging import stage, wait_staged
from mpiframe.plugins.grid.storage_errors import MissingTool

HERE = Path(__file__).resolve().parent
TYPE = "lofar_pilots"
INDEX, FLUX = -0.7, 12.0  # of the source: its spectral index, and Jy at 150 MHz
TIMES, CHANNELS, NOISE = 600, 16, 4.0  # Jy in one visibility


# -- on the servers ---------------------------------------------------------------------------------


def frequency(subband: int) -> float:
    """The middle of a subband of the low half of the high band, MHz."""
    return 110.0 + subband * 0.1953125


def measure(subband: int) -> dict[str, float]:
    """The source's flux in one subband, from visibilities as they come: with noise and interference."""
    rng = np.random.default_rng(subband)
    shape = (TIMES, CHANNELS)
    visibilities = FLUX * (frequency(subband) / 150.0) ** INDEX * np.ones(shape, complex)
    visibilities += NOISE * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    visibilities[rng.random(shape) < 0.03] += 500.0
    amplitude = np.abs(visibilities)
    spread = 1.4826 * np.median(np.abs(amplitude - np.median(amplitude)))
    good = visibilities[np.abs(amplitude - np.median(amplitude)) < 6 * spread]
    return {
        "subband": subband,
        "flux": good.real.mean(),
        "error": good.real.std() / np.sqrt(good.size),
        "flagged": 1 - good.size / visibilities.size,
    }


def process(token: Token) -> dict[str, Any]:
    """One token: all subbands of its links."""
    links = token.read("srm.txt").decode().split()
    subbands = [int(number) for link in links for number, _ in srmlist(link=link).sbn_dict()]
    measured = [measure(subband) for subband in subbands]
    lines = "".join(f"{one['subband']} {one['flux']:.4f} {one['error']:.4f}\n" for one in measured)
    token.attach(lines.encode(), "fluxes.txt")
    return {"subbands": measured, "server": os.getpid()}


# -- at the client ----------------------------------------------------------------------------------


@contextlib.contextmanager
def token_database() -> Iterator[Database]:
    """A server of our own for as long as this runs."""
    program = os.environ.get("POUCHDB_SERVER") or shutil.which("pouchdb-server")
    if program is None:
        raise SystemExit(
            "no server for the tokens: pouchdb-server is not there. launch/pilots installs it (npm install "
            "--ignore-scripts pouchdb-server@4.2.0); or name a CouchDB with --url"
        )
    password = secrets.token_urlsafe(16)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tokens-") as folder:
        config = Path(folder, "config.json")
        config.touch(0o600)
        config.write_text(json.dumps({"admins": {"pilot": password}}))
        words = [program, "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--config", str(config)]
        with open(Path(folder, "log"), "wb") as log:
            process = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            await_answer(url, process)
            database = Database("tokens", url, Credentials("pilot", password))
            database.create()
            yield database
        finally:
            process.kill()
            process.wait()


def await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.HTTPError, OSError):
            urllib.request.urlopen(url, timeout=1).close()
            return
        time.sleep(0.05)
    raise SystemExit("the server for the tokens does not answer")


def stage_all(links: srmlist) -> None:
    """Ask gfal2 for the files, as if they were on the tapes of its mock storage."""
    doubles = [f"mock://tape/{Path(link).name}?staging_time={1 + n % 2}" for n, link in enumerate(links)]
    try:
        with Gfal() as gfal:
            request = stage(doubles, gfal=gfal)
            wait_staged(
                request,
                60,
                lambda p: print(f"  {p.staged} of {p.total} files on disk", flush=True),
                poll_seconds=0.5,
            )
    except MissingTool as error:
        print(f"  staging is only pretended, because {error}")


def fit(measured: list[dict[str, float]]) -> tuple[float, float]:
    """The spectral index of all fluxes, and its error."""
    x = np.log(frequency(np.array([one["subband"] for one in measured])) / 150.0)  # type: ignore[arg-type]
    y = np.log([one["flux"] for one in measured])
    weights = np.array([one["flux"] / one["error"] for one in measured])
    (index, _), covariance = np.polyfit(x, y, 1, w=weights, cov="unscaled")
    return float(index), float(np.sqrt(covariance[0, 0]))


def work(client: mpiframe.Client, database: Database, credentials: Credentials | None) -> int:
    links = srmlist().from_file(HERE / "lofar_links.txt")
    slices = slice_dicts(dict(links.sbn_dict()), 10)
    made = TokenSet(TYPE, database, {"OBSID": links.obsid, "PIPELINE_STEP": "flux"})
    made.create_dict_tokens(slices, id_append=links.obsid or "", file_upload="srm.txt")
    tokens = TokenList(TYPE, database)
    tokens.add_views()
    print(f"{len(links)} links of {links.obsid} at {links.lta_location}, {len(made.tokens)} tokens")
    stage_all(links)

    grid = client.plugin(
        "grid", url=database.url, database=database.name, token_type=TYPE, credentials=credentials
    )
    print(f"before: {tokens.overview()}")
    report = grid.pilot(run=process, max_token_seconds=300, progress=True)
    print(f"after:  {tokens.overview()}")
    print(report)

    measured = [one for token in tokens.list_view("done") for one in token["result"]["subbands"]]
    servers = {token["result"]["server"] for token in tokens.list_view("done")}
    print(f"{len(measured)} subbands on {len(servers)} servers")
    index, error = fit(measured)
    right = len(measured) == len(links) and abs(index - INDEX) < 5 * error
    print(
        f"spectral index {index:.3f} +- {error:.3f}, the source has {INDEX}: {'right' if right else 'WRONG'}"
    )
    return 0 if right else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="a CouchDB; without it a server is started for this run")
    parser.add_argument("--database", help="its database; that of the credentials without it")
    given = parser.parse_args()
    with mpiframe.Client() as client:
        if given.url:
            return work(client, Database(given.database, given.url), None)
        with token_database() as database:
            return work(client, database, database.credentials)


if __name__ == "__main__":
    sys.exit(main())
