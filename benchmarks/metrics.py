"""The metrics against the published ways of computing them, side by side: `python benchmarks/metrics.py`.

Every round runs each route once, one after another on the same features; a ratio is the median over rounds of the
published route's time over ours in that round. Times are CPU seconds of the whole process with one thread a library,
so that what else the machine does is left out. Every route's figures are kept beside its times: a quicker program that
says something else is no quicker.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import prdc
import scipy.linalg
import torch
from sklearn.cluster import MiniBatchKMeans

from cbdm_core.metrics import frechet, manifold
from cbdm_core.metrics import prd as curves
from cbdm_core.metrics.seeding import seeded

RESULTS = Path(__file__).parent / "results" / "metrics.json"
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
K = 5  # neighbours
CLUSTERS, RUNS, ANGLES = 20, 10, 1001  # of PRD, as published

Row = dict[str, Any]


def features(n: int, D: int, seed: int, spread: float = 1.0, decay: float = 1.0) -> np.ndarray:
    """(n, D) float32: ten modes with noise about them, on axes whose scale falls from 1 to 0.01, as features' does.

    The noise is `spread` wide, and each mode has `decay` times the rows of the mode before.
    """
    scale, share = 10 ** np.linspace(0, -2, D), decay ** np.arange(10)
    modes = 2 * np.random.default_rng(7).standard_normal((10, D))
    random = np.random.default_rng(seed)
    rows = modes[random.choice(10, n, p=share / share.sum())] + spread * random.standard_normal((n, D))
    return (scale * rows).astype(np.float32)


def full_rank_features(n: int, D: int, seed: int) -> np.ndarray:
    """(n, D) float64 with a mean and correlated coordinates, the spectrum falling from 1 to 1e-5; n > D."""
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(7).standard_normal((D, D)))[0]
    rows = random.standard_normal((n, D)) * 10 ** np.linspace(0, -2.5, D) * random.uniform(0.8, 1.2, D)
    return rows @ axes.T + 0.1 * random.standard_normal(D)


def published_fid(real: np.ndarray, fake: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) with the square root of the unsymmetric product."""
    difference = real.mean(0) - fake.mean(0)
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * np.trace(np.real(root)))


def published_precision_recall(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """All pairs at once: three full matrices of squared distances, and the (K + 1)-th smallest of each row of two."""
    between = _squares(real, fake)
    precision = (between < _radii(real)[:, None]).any(0).mean()
    recall = (between < _radii(fake)).any(1).mean()
    return float(precision), float(recall)


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    d = x @ y.T
    d *= -2
    d += np.square(x).sum(1)[:, None]
    d += np.square(y).sum(1)
    return d


def _radii(points: np.ndarray) -> np.ndarray:
    return np.partition(_squares(points, points), K, axis=1)[:, K]


def packaged_precision_recall(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The package prdc, which prints a line."""
    with contextlib.redirect_stdout(io.StringIO()):
        scores = prdc.compute_prdc(real, fake, K)
    return float(scores["precision"]), float(scores["recall"])


def published_prd(real: np.ndarray, fake: np.ndarray, clusters: int, runs: int) -> tuple[float, float]:
    """F8 and F1/8 over histograms from MiniBatchKMeans with 10 starts, anew in each run."""
    union, found = np.concatenate([real, fake]), []
    slope = np.tan(np.linspace(1e-10, np.pi / 2 - 1e-10, ANGLES))[:, None]
    for seed in range(runs):
        label = _labels(union, clusters, seed)
        p = np.bincount(label[: len(real)], minlength=clusters) / len(real)
        q = np.bincount(label[len(real) :], minlength=clusters) / len(fake)
        precision = np.minimum(slope * p, q).sum(1)
        recall = precision / slope[:, 0]
        found.append([_f_beta(precision, recall, beta) for beta in (8, 1 / 8)])
    f8, f1_8 = np.mean(found, axis=0).tolist()
    return f8, f1_8


def _labels(rows: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    means = MiniBatchKMeans(clusters, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    return np.asarray(means.fit(rows).labels_)


def _f_beta(precision: np.ndarray, recall: np.ndarray, beta: float) -> float:
    return float(((1 + beta**2) * precision * recall / (beta**2 * precision + recall + 1e-10)).max())


def inertia(rows: np.ndarray, label: np.ndarray) -> float:
    """Σ ‖x − mean of its cluster‖², what k-means makes small."""
    parts = (rows[label == c].astype(np.float64) for c in np.unique(label))
    return float(sum(np.square(part - part.mean(0)).sum() for part in parts))


def on_one_thread(main: Callable[[], None]) -> None:
    """Run the program with one thread a library."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # Libraries read these when they load: begin again with them set.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    torch.set_num_threads(1)
    main()


def measured_anew(
    about: str, rounds: int, measured: Callable[[int], Row], page: Callable[[Row], str], file: Path
) -> None:
    """Measure in the rounds asked for on the command line, keep the result in its file, print the table of the page."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=rounds, help="rounds, in which the routes take turns")
    results = measured(parser.parse_args().pairs)
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(page(results))


def timed(routes: dict[str, Callable[[], Any]], pairs: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The CPU seconds of each route in each round, and what each said last."""
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    said: dict[str, Any] = {}
    for _ in range(pairs):
        for name, route in routes.items():
            start = time.process_time()
            said[name] = route()
            seconds[name].append(round(time.process_time() - start, 6))
    return seconds, said


def compared(name: str, n: int, D: int, routes: dict[str, Callable[[], Any]], pairs: int) -> tuple[list[Row], Any]:
    """A row for each route but the first, which is ours."""
    seconds, said = timed(routes, pairs)
    ours, *others = routes
    rows = [
        {
            "metric": name,
            "n": n,
            "D": D,
            "route": other,
            "ours_seconds": seconds[ours],
            "theirs_seconds": seconds[other],
            "ratio": round(statistics.median(b / a for a, b in zip(seconds[ours], seconds[other], strict=True)), 2),
            "ours": said[ours],
            "theirs": said[other],
        }
        for other in others
    ]
    return rows, said


def fid(n: int = 4096, D: int = 2048, pairs: int = 3) -> list[Row]:
    """From features to the distance, moments and all."""
    real, fake = full_rank_features(n, D, 0), full_rank_features(n, D, 1)
    routes = {
        "ours": lambda: frechet.frechet_distance(torch.from_numpy(real), torch.from_numpy(fake)),
        "scipy sqrtm": lambda: published_fid(real, fake),
    }
    rows, _ = compared("FID", n, D, routes, pairs)
    for row in rows:
        row["difference"] = abs(row["ours"] / row["theirs"] - 1)
    return rows


def recall(n: int = 5000, D: int = 2048, pairs: int = 5, spread: float = 0.97) -> list[Row]:
    """Precision and recall together, as every route gives both."""
    real, fake = features(n, D, 0), features(n, D, 1, spread)
    wide = real.astype(np.float64), fake.astype(np.float64)
    routes = {
        "ours": lambda: manifold.precision_recall(torch.from_numpy(real), torch.from_numpy(fake), K),
        "full matrices, float64": lambda: published_precision_recall(*wide),
        "full matrices, float32": lambda: published_precision_recall(real, fake),
        "package prdc": lambda: packaged_precision_recall(real, fake),
    }
    rows, _ = compared("precision and recall", n, D, routes, pairs)
    for row in rows:
        row["difference"] = max(abs(a - b) for a, b in zip(row["ours"], row["theirs"], strict=True))
    return rows


def prd(n: int = 5000, D: int = 2048, pairs: int = 5, num_classes: int = 1, runs: int = RUNS) -> list[Row]:
    """The same clusters, runs and angles; besides, the inertia of one clustering of the union by each."""
    real, fake = features(n, D, 0), features(n, D, 1, decay=0.7)
    clusters = CLUSTERS * num_classes
    a, b = torch.from_numpy(real), torch.from_numpy(fake)
    routes = {
        "ours": lambda: tuple(curves.prd(a, b, num_classes, runs=runs, angles=ANGLES)),
        "MiniBatchKMeans": lambda: published_prd(real, fake, clusters, runs),
    }
    rows, _ = compared(f"PRD, {clusters} clusters, {runs} run{'s' * (runs > 1)}", n, D, routes, pairs)
    union = np.concatenate([real, fake])
    x = torch.cat(curves._about_the_middle(a, b))
    ours = [inertia(union, curves._clustered(x, clusters, seeded(s, "inertia")).numpy()) for s in range(3)]
    theirs = [inertia(union, _labels(union, clusters, s)) for s in range(3)]
    for row in rows:
        row["difference"] = max(abs(a - b) for a, b in zip(row["ours"], row["theirs"], strict=True))
        row["inertia_ratio"] = statistics.mean(ours) / statistics.mean(theirs)
    return rows


def memory(n: int = 50_000, D: int = 2048) -> Row:
    """The peak of a fresh process during `prdc` above what it held before, in bytes; features are float32."""
    found = subprocess.run(
        [sys.executable, __file__, "--measure-memory", str(n), str(D)],
        env=os.environ | ONE_THREAD | {"PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(found.stdout)


def measured_memory(n: int, D: int) -> Row:
    """In this process, which has done nothing else. The kernel keeps the peak, and takes the word to begin anew."""
    real, fake = (torch.from_numpy(features_in_parts(n, D, seed)) for seed in (0, 1))
    manifold.prdc(real[:60], fake[:60], K)  # what libraries take once is not the call's
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _status("VmRSS"), time.process_time()
    scores = manifold.prdc(real, fake, K)
    taken = _status("VmHWM") - before
    return {"n": n, "D": D, "bytes": taken, "seconds": round(time.process_time() - start, 3), "scores": list(scores)}


def features_in_parts(n: int, D: int, seed: int) -> np.ndarray:
    """As `features`, without holding more than a part of them in float64."""
    rows = np.empty((n, D), dtype=np.float32)
    for i, at in enumerate(range(0, n, 1000)):
        part = rows[at : at + 1000]
        part[:] = features(len(part), D, 1000 * (seed + 1) + i)
    return rows


def _status(field: str) -> int:
    """A size of this process in bytes, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


SECTIONS: dict[str, Callable[[int], Any]] = {
    "fid": lambda pairs: fid(pairs=min(pairs, 3)),
    "recall": lambda pairs: [*recall(D=2048, pairs=pairs), *recall(D=64, pairs=pairs)],
    "prd": lambda pairs: [
        *prd(D=2048, pairs=pairs),
        *prd(D=2048, pairs=min(pairs, 3), num_classes=10, runs=1),
        *prd(D=64, pairs=pairs),
    ],
    "memory": lambda pairs: memory(),
}


def machine() -> Row:
    names = ("numpy", "scipy", "torch", "scikit-learn", "prdc")
    cpu = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": (models or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def page(results: Row) -> str:
    """The table of the page, in Markdown."""
    lines = ["| figure | rows a set | D | published route | theirs, s | ours, s | ratio | figures differ by |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in (row for name in ("fid", "recall", "prd") for row in results[name]):
        theirs, ours = statistics.median(row["theirs_seconds"]), statistics.median(row["ours_seconds"])
        difference = f"{row['difference']:.0e}" if row["metric"] == "FID" else f"{row['difference']:.4f}"
        lines.append(
            f"| {row['metric']} | {row['n']:,} | {row['D']} | {row['route']} | {theirs:.2f} | {ours:.2f} "
            f"| {row['ratio']:.1f} | {difference} |"
        )
    return "\n".join(lines)


def memory_page(results: Row) -> str:
    """The sentence of the page on memory."""
    row = results["memory"]
    return f"{row['n']:,} rows a set of {row['D']} float32 numbers: {row['bytes'] / 1e9:.2f} GB above the features"


def updated(names: Sequence[str], pairs: int) -> Row:
    """The results with these sections measured anew; all from one machine."""
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = (old if old.get("machine") == machine() else {}) | {"machine": machine()}
    for name in names:
        results[name] = SECTIONS[name](pairs)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5, help="rounds (at most 3 where a round takes minutes)")
    parser.add_argument("--only", choices=SECTIONS, help="one part; the others stay as they are in the results")
    parser.add_argument("--measure-memory", type=int, nargs=2, metavar=("N", "D"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure_memory:
        print(json.dumps(measured_memory(*asked.measure_memory)))
        return
    results = updated([asked.only] if asked.only else list(SECTIONS), asked.pairs)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if all(name in results for name in SECTIONS):
        print(page(results), memory_page(results), sep="\n\n")
    else:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    on_one_thread(main)
