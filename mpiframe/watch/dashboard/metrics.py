"""A snapshot as metrics, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("idle", "busy", "unresponsive", "starting", "lost", "closed")
_STATUSES = ("done", "failed", "cancelled", "lost", "timeout")


def exposition(snapshot: dict[str, Any]) -> bytes:
    """The metrics of a world. A registry of its own: nothing of this process is among them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_World(snapshot))  # type: ignore[arg-type,unused-ignore]
    text: bytes = generate_latest(registry)
    return text


class _World:
    """What prometheus_client calls a collector."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Any]:
        now, servers = self._snapshot, self._snapshot["servers"]
        world = now["world"]
        about = {"name": world["name"] or "", "mpi": world["mpi"]}
        yield InfoMetricFamily("mpiframe_world", "What world this is.", about)
        yield GaugeMetricFamily(
            "mpiframe_world_start_time_seconds", "When it was started, since the epoch.", world["started"]
        )
        commands = CounterMetricFamily(
            "mpiframe_commands", "Commands that have ended, by status.", labels=["status"]
        )
        for status in _STATUSES:
            commands.add_metric([status], now["statuses"].get(status, 0))
        yield commands
        for key, name, what in (
            ("run_seconds", "run", "How long commands ran."),
            ("wait_seconds", "wait", "How long commands waited from being queued to being run."),
        ):
            yield _histogram(f"mpiframe_command_{name}_seconds", what, now[key])
        yield GaugeMetricFamily(
            "mpiframe_shared_queue_length", "Commands that wait for any server.", now["shared_queue"]
        )
        states = GaugeMetricFamily("mpiframe_servers", "Servers, by state.", labels=["state"])
        counts = Counter(server["state"] for server in servers)
        for state in dict.fromkeys([*_STATES, *counts]):
            states.add_metric([state], counts[state])
        yield states
        for make, key, name, what in (
            (GaugeMetricFamily, "queued", "queue_length", "Commands that wait for this server alone."),
            (CounterMetricFamily, "done", "commands_done", "Commands that ended well on it."),
            (
                CounterMetricFamily,
                "failed",
                "commands_failed",
                "Commands that failed, were late or lost on it.",
            ),
            (CounterMetricFamily, "busy", "busy_seconds", "Seconds in which it ran commands."),
            (CounterMetricFamily, "cpu", "cpu_seconds", "CPU time of its process."),
            (GaugeMetricFamily, "rss", "resident_bytes", "Memory of its process."),
        ):
            family = make(f"mpiframe_server_{name}", what, labels=["server", "host"])
            for server in servers:
                if server[key] is not None:
                    family.add_metric([str(server["rank"]), server["host"]], server[key])
            yield family
        for key, what in (
            ("queued", "Commands of this session that wait."),
            ("running", "Commands of this session that run."),
            ("connected", "Whether somebody is attached to it."),
        ):
            family = GaugeMetricFamily(f"mpiframe_session_{key}", what, labels=["session"])
            for session in now["sessions"]:
                family.add_metric([session["name"]], float(session.get(key) or 0))
            yield family


def _histogram(name: str, what: str, facts: dict[str, Any]) -> Any:
    total, buckets = 0, []
    for bound, count in zip([*facts["bounds"], float("inf")], facts["counts"], strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    family = HistogramMetricFamily(name, what)
    family.add_metric([], buckets, facts["sum"])
    return family
