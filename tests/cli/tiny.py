"""A small, quick experiment for the tests of the command line, and the command itself in a child process."""

import os
import subprocess
import sys
from pathlib import Path

TINY = [
    "--set", "network.options.width=8",
    "--set", "network.options.groups=4",
    "--set", "network.options.attention=[]",
    "--set", "training.batch_size=8",
    "--set", "training.warmup=2",
    "--set", "training.checkpoint_every=4",
    "--set", "training.log_every=1",
    "--set", "sampling.steps=2",
    "--set", "evaluation.per_class=8",
]  # fmt: skip
UNJUDGED = [*TINY, "--no-evaluate"]  # where what was learned is judged, and nothing that is drawn
# Runs the command and says which heavy packages it loaded.
PROBE = """
import os, sys
from cbdm_cli.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
heavy = sorted({"torch", "scipy", "matplotlib"} & set(sys.modules))
print("HEAVY", heavy)
"""


def shared_classifiers(base):
    """The cache of classifiers of the whole suite, the same for all workers; `base` is pytest's base folder."""
    return (base.parent if base.name.startswith("popen-") else base) / "classifiers"


def cbdm(*arguments, cwd, env=None, check=None, before=None):
    """Run the command in a child with one thread; `check` is the exit code it must end with."""
    done = subprocess.run(
        [sys.executable, "-m", "cbdm_cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=before,
    )
    if check is not None:
        assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def one_line(done):
    """The single line of an error: exit code 2, nothing else on standard error."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, (done.returncode, done.stderr, done.stdout)
    assert len(lines) == 1 and lines[0].startswith("cbdm: "), done.stderr
    return lines[0]


def fingerprint(run: Path) -> dict[str, str]:
    """SHA-256 of the weights, averages and optimiser of a run's newest checkpoint."""
    import json

    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {name: fact["sha256"] for name, fact in json.loads((newest / "state.json").read_text())["files"].items()}


def trained_once(tmp_path_factory, *options):
    """The folder of a run of six steps, for a fixture of a whole file."""
    import pytest

    from cbdm_cli.__main__ import main

    folder = tmp_path_factory.mktemp("runs") / "r"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CBDM_CACHE", str(shared_classifiers(tmp_path_factory.getbasetemp())))
        with pytest.raises(SystemExit) as end:
            main(["train", "--steps", "6", *options, "--out", str(folder)])
        assert not end.value.code
    return folder
