"""The results as a picture: how quick each peer is, as a multiple of raw mpi4py's speed."""

from __future__ import annotations

import re
from pathlib import Path

from .figures import COMPARED, FIGURES, FUTURES, Results

_STYLE = {
    "ours": ("mpiframe", "#d62728", "D"),
    "futures": ("mpi4py.futures, the best of its ways", "#1f77b4", "o"),
    "charm4py": ("charm4py (busy when idle)", "#2ca02c", "s"),
    "schwimmbad": ("schwimmbad (busy when idle)", "#8c564b", "v"),
    "ray": ("ray", "#9467bd", "^"),
    "dask-mpi": ("dask-mpi", "#ff7f0e", "P"),
    "ipyparallel": ("ipyparallel", "#7f7f7f", "X"),
    "casampi": ("casampi", "#bcbd22", "*"),
}


def draw(results: Results, path: Path) -> None:
    """Write the picture; one panel an MPI. Raises ImportError where there is no matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = [name for name in COMPARED if name != "idle"]
    figure, panels = pyplot.subplots(
        1, len(results.mpis), figsize=(3.5 + 4.5 * len(results.mpis), 5.8), sharey=True, squeeze=False
    )
    for panel, mpi in zip(panels[0], results.mpis, strict=True):
        for peer, (label, colour, marker) in _STYLE.items():
            points = [
                (share, row) for row, name in enumerate(names) if (share := _share(results, mpi, peer, name))
            ]
            if points:
                size, layer = (80, 3) if peer == "ours" else (42, 2)
                panel.scatter(*zip(*points, strict=True), size, colour, marker, label=label, zorder=layer)
        panel.axvline(1, color="black", linewidth=1.2)
        panel.set_xscale("log")
        panel.set_title(mpi, fontsize=11)
        panel.set_xlabel("speed, as a multiple of raw mpi4py's (the line; right is better)")
        panel.set_yticks(range(len(names)), [_title(name) for name in names])
        panel.set_ylim(len(names) - 0.5, -0.5)  # the first on top
        panel.xaxis.set_major_formatter(lambda share, _: f"{share:.6f}".rstrip("0").rstrip("."))
        panel.grid(True, which="major", alpha=0.3)
    handles: dict[str, object] = {}
    for panel in panels[0]:
        handles |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=3, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _title(name: str) -> str:
    return re.sub(r"^\d+\. |`", "", FIGURES[name].title)


def _share(results: Results, mpi: str, peer: str, name: str) -> float | None:
    chosen = results.best(mpi, FUTURES, name) if peer == "futures" else peer
    if chosen is None or not results.belongs(mpi, chosen):
        return None
    value, raw = results.value(mpi, chosen, name), results.value(mpi, "raw", name)
    if value is None or raw is None:
        return None
    return raw / value if FIGURES[name].less_is_better else value / raw
