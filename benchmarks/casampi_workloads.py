"""The script that benchmarks/casampi.py gives to the original casampi and to ours, the same for both.

    casampi_workloads.py FILE WORKLOADS

WORKLOADS is JSON, as {"latency": 10, "commands": [500, 1], "results": {"16": 2}}: ten commands one after
another, 500 commands at once, a result of 16 MiB twice. What was measured goes to FILE, as JSON.
"""

import json
import os
import sys
import time
from typing import Any

# On the ranks that serve, the original does not come back from this import; with ours they never begin the
# script.
import casampi.private.start_mpi  # noqa: F401
from casampi.MPICommandClient import MPICommandClient

SERVERS = [1, 2]


def value(responses: list[dict[str, Any]]) -> Any:
    """What the one command of these responses gave; a failure must not be timed as if it were work."""
    (response,) = responses
    if not response["successful"]:
        raise RuntimeError(response["traceback"])
    return response["ret"]


def latencies(client: Any, rounds: int) -> list[float]:
    """Seconds of each blocking command."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = value(client.push_command_request("1+1", True))
        seconds.append(time.perf_counter() - start)
        assert result == 2, result
    return seconds


def command_rates(client: Any, commands: int, rounds: int) -> list[float]:
    """Commands a second, pushed all at once to whichever server is free, and then collected."""
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        ids = [client.push_command_request(f"{number}+1")[0] for number in range(commands)]
        responses = client.get_command_response(ids, True)
        rates.append(commands / (time.perf_counter() - start))
        assert [value([r]) for r in responses] == list(range(1, commands + 1))
    return rates


def result_rates(client: Any, mib: int, rounds: int) -> list[float]:
    """MiB a second of an array that the server has already made."""
    make = f"import numpy; data = numpy.ones({mib << 20}, numpy.uint8)"
    value(client.push_command_request(make, True, 1))
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        data = value(client.push_command_request("data", True, 1))
        rates.append(mib / (time.perf_counter() - start))
        assert data.nbytes == mib << 20
        assert data[0] == data[-1] == 1
    return rates


def main() -> None:
    """Start, measure, stop, write."""
    path, wanted = sys.argv[1], json.loads(sys.argv[2])
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    client = MPICommandClient()
    start = time.perf_counter()
    client.start_services()
    found["start"] = [time.perf_counter() - start]
    for response in client.push_command_request("1+1", True, SERVERS):
        value([response])  # the first command of a server is not what is measured
    if "latency" in wanted:
        found["latency"] = latencies(client, wanted["latency"])
    if "commands" in wanted:
        found["commands"] = command_rates(client, *wanted["commands"])
    for mib, rounds in wanted.get("results", {}).items():
        found[f"result {mib}"] = result_rates(client, int(mib), rounds)
    found["stopping"] = time.time()  # for whoever waits for the end of all ranks
    start = time.perf_counter()
    client.stop_services()
    found["stop"] = [time.perf_counter() - start]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file)


main()
