"""Mutants of the mathematics: one sign, number or comparison of a module changed, and whether its tests notice.

`python -m tests.mutants --n 30` takes so many mutants of each module at random (0: all), by cosmic-ray's operators, and
lists those that live. `pip install cosmic-ray` first. Each is tried in a fork, so that none costs the imports.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import resource
import signal
import sys
import time
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "cbdm_core/process.py": ("tests/core/test_process.py", "tests/truth/test_true_process.py"),
    "cbdm_core/schedules.py": ("tests/core/test_schedules.py", "tests/truth/test_true_process.py"),
    "cbdm_core/guidance.py": ("tests/core/test_guidance.py", "tests/truth/test_true_guidance.py"),
    "cbdm_core/samplers.py": (
        "tests/core/test_samplers.py",
        "tests/parity/test_published_sampler.py",
        "tests/test_contracts.py::TestSamplers",
    ),
    "cbdm_core/data/levels.py": ("tests/core/data/test_levels.py", "tests/truth/test_noise_levels.py"),
    "cbdm_core/data/listed.py": ("tests/core/data/test_listed.py",),
    "cbdm_core/data/writing_npy.py": ("tests/core/data/test_writing_npy.py",),
    "cbdm_core/data/transplant.py": ("tests/core/data/test_transplant.py", "tests/truth/test_noise_levels.py"),
    "cbdm_core/metrics/frechet.py": ("tests/core/metrics/test_frechet.py", "tests/truth/test_true_metrics.py"),
    "cbdm_core/metrics/kernel.py": ("tests/core/metrics/test_kernel.py", "tests/truth/test_true_metrics.py"),
    "cbdm_core/metrics/manifold.py": ("tests/core/metrics/test_manifold.py", "tests/truth/test_true_metrics.py"),
    "cbdm_core/metrics/memorisation.py": ("tests/core/metrics/test_memorisation.py", "tests/truth/test_true_copies.py"),
    "cbdm_core/metrics/uncertainty.py": ("tests/core/metrics/test_uncertainty.py",),
    "priors/cbdm_priors/laws/counts.py": ("tests/priors/laws/test_counts.py", "tests/truth/test_true_laws.py"),
    "priors/cbdm_priors/laws/learned.py": ("tests/priors/laws/test_learned.py", "tests/truth/test_true_laws.py"),
    "priors/cbdm_priors/laws/vectors.py": ("tests/priors/laws/test_vectors.py", "tests/truth/test_true_laws.py"),
    "priors/cbdm_priors/penalties/balancing.py": (
        "tests/priors/penalties/test_balancing.py",
        "tests/priors/penalties/test_together.py",
        "tests/truth/test_true_regulariser.py",
    ),
    "priors/cbdm_priors/penalties/other_conditions.py": (
        "tests/priors/penalties/test_together.py",
        "tests/priors/penalties/test_balancing.py",
    ),
    "priors/cbdm_priors/penalties/shrinkage.py": ("tests/priors/penalties/test_shrinkage.py",),
    "priors/cbdm_priors/penalties/contrast.py": ("tests/priors/penalties/test_contrast.py",),
    "priors/cbdm_priors/optimum.py": ("tests/priors/test_optimum.py", "tests/truth/test_true_optimum.py"),
    "priors/cbdm_priors/reweighting.py": ("tests/priors/test_reweighting.py",),
    "priors/cbdm_priors/transfer.py": ("tests/priors/test_transfer.py", "tests/truth/test_true_relatives.py"),
    "priors/cbdm_priors/sampling/posterior.py": ("tests/priors/sampling/test_posterior.py",),
    "priors/cbdm_priors/sampling/tracking.py": ("tests/priors/sampling/test_tracking.py",),
}
SWAPS = (("Add", "Sub"), ("Sub", "Add"), ("Mul", "Div"), ("Div", "Mul"), ("Pow", "Mul"))
COMPARED = (("Lt", "LtE"), ("LtE", "Lt"), ("Gt", "GtE"), ("GtE", "Gt"), ("Eq", "NotEq"), ("NotEq", "Eq"))
OPERATORS = (
    *(f"ReplaceBinaryOperator_{a}_{b}" for a, b in SWAPS),
    *(f"ReplaceComparisonOperator_{a}_{b}" for a, b in COMPARED),
    *("ReplaceUnaryOperator_USub_UAdd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "NumberReplacer", "AddNot"),
)
PATIENCE = 120  # seconds of the processor, and ten times as many by the clock; a mutant that hangs is noticed


def mutants(source: str) -> list[str]:
    """Every mutant of a module's source that still compiles; decorators and bare stars, no mathematics, stay."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    found: dict[str, None] = {}
    for name in OPERATORS:
        operator, occurrence = get_operator(f"core/{name}")(), 0
        while (changed := mutate_code(source, operator, occurrence)) is not None:
            occurrence += 1
            try:
                compile(changed, "mutant", "exec")
            except SyntaxError:
                continue
            lines = [new.strip() for _, _, new in _changes(source, changed)]
            if not any(line.startswith("@") or "/, " in line or line == "/," for line in lines):
                found[changed] = None
    return list(found)


class _Mutant(MetaPathFinder, Loader):
    """Imports one module from other source."""

    def __init__(self, name: str, file: Path, source: str) -> None:
        self.name, self.file, self.source = name, file, source

    def find_spec(self, fullname, path, target=None):
        return importlib.util.spec_from_loader(fullname, self, origin=str(self.file)) if fullname == self.name else None

    def exec_module(self, module):
        module.__file__ = str(self.file)
        exec(compile(self.source, str(self.file), "exec"), module.__dict__)


def notices(file: str, source: str, tests: tuple[str, ...]) -> bool:
    """Whether one of the tests fails, or none ends in time, when the module in `file` has this source."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
            sink = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(sink, stream)
            name = file.removeprefix("priors/").removesuffix(".py").replace("/", ".")
            sys.meta_path.insert(0, _Mutant(name, ROOT / file, source))
            import pytest

            options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
            code = int(pytest.main([*options, *(str(ROOT / test) for test in tests)]))
        finally:
            os._exit(code)
    end = time.monotonic() + 10 * PATIENCE
    while time.monotonic() < end:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return status != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _changes(before: str, after: str) -> list[tuple[int, str, str]]:
    """(line number, old line, new line) wherever two sources differ."""
    pairs = enumerate(zip(before.splitlines(), after.splitlines(), strict=True), start=1)
    return [(number, old, new) for number, (old, new) in pairs if old != new]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=30, help="mutants of each module, 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--only", choices=tuple(MODULES), help="one module")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    for name in ("hypothesis", "pytest", "scipy.stats"):  # once, before the forks, which would each take seconds for it
        import_module(name)
    import torch

    torch.set_num_threads(1)
    total = noticed = failing = 0
    for file, tests in MODULES.items():
        if chosen.only not in (None, file):
            continue
        source = (ROOT / file).read_text(encoding="utf-8")
        if notices(file, source, tests):
            print(f"{file}: its tests fail without any change", flush=True)
            failing += 1
            continue
        every = mutants(source)
        some = random.Random(chosen.seed).sample(every, min(chosen.n or len(every), len(every)))
        living = [mutant for mutant in some if not notices(file, mutant, tests)]
        total, noticed = total + len(some), noticed + len(some) - len(living)
        print(f"{file}: {len(some) - len(living)} of {len(some)} noticed ({len(every)} there are)", flush=True)
        for mutant in living:
            for number, old, new in _changes(source, mutant):
                print(f"    {number}: {old.strip()} → {new.strip()}", flush=True)
    print(f"{noticed} of {total} mutants noticed, {noticed / max(total, 1):.1%}")
    sys.exit(bool(failing))


if __name__ == "__main__":
    main()
