"""Every loader against files that somebody else has damaged or forged.

`python -m tests.faults.fuzz --n 100000` shares so many examples among the loaders and reports the counts. What must
hold for each: it is read, or refused by one line; within ten seconds; and nothing is written outside its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import signal
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import tomli_w
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from cbdm_cli.__main__ import no_memory
from cbdm_cli.assemble import assemble
from cbdm_cli.config import validated
from cbdm_cli.foreign_samples import read_samples
from cbdm_cli.overlay import load_config, setting
from cbdm_cli.resolve import resolved
from cbdm_cli.run_folder import COMPARISON_FILE, Metrics
from cbdm_cli.study.plan import READINGS, Plan, Variant, load_plan, readings_of, run_folder, save_plan
from cbdm_cli.study.report.collect import collect
from cbdm_cli.study.summary import summarise
from cbdm_core import memory
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.checkpoint import load_checkpoint, save_checkpoint
from cbdm_core.data.folders import folder
from cbdm_core.data.npy import npy
from cbdm_core.data.npz import npz
from cbdm_core.data.sources import mixture
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError
from cbdm_core.networks.encoders import sinusoid
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.published import load_published, published_names, published_unet
from cbdm_core.objective import Objective
from cbdm_core.process import Process
from cbdm_core.run import load_run
from cbdm_core.run_config import read_config
from cbdm_core.schedules import VP
from cbdm_core.training import TrainSettings, TrainState
from tests.faults.mutations import Opaque, array, as_json, damaged, hostile, mutated, tensor

SECONDS = 10
PIXELS = np.zeros((6, 4, 4), np.uint8)
ADVICE = ("allow_pickle", "weights_only", "unpickl", "Traceback")
SMALL = (
    "data.options={num_classes=4, per_class=12}",
    "data.imbalance=0.5",
    "network.options={width=8, depth=1}",
    "training.batch_size=4",
    "training.steps=2",
    "training.warmup=1",
    "training.log_every=1",
    "sampling.steps=2",
    "evaluation.per_class=4",
    "evaluation.features='pixels'",
)


class HangError(BaseException):
    """A loader that took longer than it may; no handler of errors stops it."""


@contextlib.contextmanager
def within(seconds, patience=10):
    """Raise `HangError` in the block after so many seconds of work, or `patience` times as many of waiting.

    The work is the processor's time, for a busy machine makes no loader hang.
    """

    def ring(*_):
        raise HangError(f"longer than {seconds} s")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, patience * seconds))
    before = [signal.signal(number, ring) for number, _, _ in timers]
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


@contextlib.contextmanager
def small_memory(count=1 << 29):
    """As if the machine had half a gigabyte, so that no example takes what others need."""
    before = memory.available_bytes
    memory.available_bytes = lambda device="cpu": count
    try:
        yield
    finally:
        memory.available_bytes = before


class Material:
    """What is damaged: a run, a checkpoint, a comparison, files of data; made once.

    Args:
        base: an empty folder.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.box = base / "box"  # loaders work in here, and anything new outside is a fault
        self.box.mkdir()
        self.run = self._run()
        self.config = read_config(self.run)
        self.state = state_of()
        self.checkpoint = save_checkpoint(base / "checkpoints", self.state)
        self.saved = torch.load(self.checkpoint / "optimizer.pt", weights_only=True)
        network = published_unet((1, 8, 8), 2, width=32, multipliers=(1,), attention=(), blocks=1, time_steps=10)
        names = published_names(network)
        self.weights = {names[name]: p.detach().clone() for name, p in network.named_parameters()}
        self.weights["time_embedding.timembedding.0.weight"] = sinusoid(torch.arange(10), 32).float()
        self.comparison = self._comparison()
        self.outside = self.listing()

    def listing(self):
        """Everything that lies outside the box."""
        return sorted(str(p) for p in self.base.rglob("*") if self.box not in (p, *p.parents))

    def _run(self) -> Path:
        from cbdm_cli.commands.diagnose import LEVELS, QUERIES, diagnose_run
        from cbdm_cli.commands.train import start
        from cbdm_cli.trainer import RunOptions

        config = resolved(load_config("mixture-lt", None, SMALL), {})
        with contextlib.redirect_stdout(io.StringIO()):
            start(config, self.base / "run", "cpu", False, RunOptions())
            diagnose_run(self.base / "run", levels=LEVELS, queries=QUERIES, folds=0, seed=0, device="cpu")
        return self.base / "run"

    def _comparison(self) -> Path:
        place = self.base / "comparison"
        variants = (Variant(name="ddpm", parts="ddpm"), Variant(name="cbdm:null", parts="cbdm:null"))
        plan = Plan(preset="mixture-lt", settings=SMALL, steps=2, seeds=1, omegas=("0", "1"), variants=variants)
        place.mkdir()
        save_plan(place, plan)
        result = json.loads((self.run / "evaluation.json").read_text())
        for variant in variants:
            path = run_folder(place, variant, 0)
            shutil.copytree(self.run, path, ignore=shutil.ignore_patterns("checkpoints"))
            (path / READINGS).mkdir()
            for reading in readings_of(plan, variant):
                text = json.dumps({**result, "omega": reading.omega, "guidance_interval": list(reading.interval)})
                (path / READINGS / reading.file).write_text(text)
        return place


def state_of() -> TrainState:
    """A training state after one step."""
    torch.manual_seed(0)
    objective = Objective(Process(VP()), MLP((2,), 3, width=8, depth=1), DenoisingLoss())
    state = TrainState.start(objective, TrainSettings(), World(0, 1, torch.device("cpu")))
    step_of(state)
    state.step = 1
    return state


def step_of(state: TrainState) -> None:
    """What uses the optimiser's state: the fused kernel."""
    for p in state.objective.parameters():
        p.grad = torch.ones_like(p)
    state.optimizer.step()


# --- the loaders: each a strategy of examples, and what is done with one -----------------------------------------


def configurations(material):
    table = load_config("mixture-lt", None, SMALL)
    text = tomli_w.dumps(table).encode()
    return st.one_of(
        mutated(table).map(toml),
        damaged(text),
        st.tuples(st.sampled_from(dotted(table)), hostile()).map(lambda pair: f"{pair[0]}={pair[1]!r}"),
        st.text(max_size=30),
    )


def read_configuration(material, given):
    file = material.box / "config.toml"
    if isinstance(given, str):
        setting(given)
        config = resolved(load_config("mixture-lt", None, (*SMALL, given)), {})
    else:
        file.write_bytes(given)
        config = resolved(load_config("mixture-lt", file), {})
    sized = config.model_dump()
    if config.data.source == "mixture" and math.prod(map(number, sized["data"]["options"].values())) < 10**6:
        assemble(config)


def runs(material):
    return st.one_of(mutated(material.config).map(toml), damaged(tomli_w.dumps(material.config).encode()))


def read_run(material, content):
    place = material.box / "run"
    place.mkdir(exist_ok=True)
    (place / "config.toml").write_bytes(content)
    if not (place / "checkpoints").exists():
        (place / "checkpoints").symlink_to(material.run / "checkpoints")
    run = load_run(place)
    validated(run.config)


def checkpoints(material):
    facts = json.loads((material.checkpoint / "state.json").read_text())
    names = st.sampled_from(("model.safetensors", "ema.safetensors", "optimizer.pt"))
    raw = names.flatmap(
        lambda name: st.tuples(st.just(name), damaged((material.checkpoint / name).read_bytes()), st.booleans())
    )
    return st.one_of(
        as_json(facts).map(lambda content: ("state.json", content, False)),
        raw,
        torch_files(material.saved).map(lambda content: ("optimizer.pt", content, True)),
    )


def read_checkpoint(material, given):
    name, content, rehash = given
    place = fresh(material, "step-00000001")
    for file in material.checkpoint.iterdir():
        if file.name != name:
            shutil.copy(file, place / file.name)
    (place / name).write_bytes(content)
    if rehash:
        import hashlib

        facts = json.loads((place / "state.json").read_text())
        facts["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (place / "state.json").write_text(json.dumps(facts))
    state = state_of()
    load_checkpoint(place, state)
    step_of(state)


def imports(material):
    whole = {"net_model": material.weights, "ema_model": material.weights, "step": 3}
    packed = io.BytesIO()
    torch.save(whole, packed)
    return st.one_of(
        torch_files(whole), torch_files(material.weights), damaged(Opaque(packed.getvalue())), st.binary(max_size=40)
    )


def read_import(material, content):
    from cbdm_cli.initial_weights import read_state_dict

    file = material.box / "their.pt"
    file.write_bytes(content)
    weights, _ = read_state_dict(file, "ema_model")
    load_published(weights, spatial=(8, 8))


def npz_files(material):
    arrays = {
        "images": PIXELS,
        "labels": np.arange(6) % 3,
        "class_names": np.array(["a", "b", "c"]),
    }

    @st.composite
    def made(draw):
        own = dict(arrays)
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.sampled_from(sorted(arrays)))
            if draw(st.integers(0, 5)) == 0:
                own.pop(name, None)
                own[draw(st.text(max_size=5).map(lambda t: t.replace("/", "").replace("\0", "") or "x"))] = arrays[name]
            else:
                own[name] = draw(array(arrays[name]))
        packed = io.BytesIO()
        np.savez(packed, **{k: v for k, v in own.items() if k != "file"})
        return packed.getvalue()

    def header(text):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            head = f"{text}\n".encode()
            for name in ("images.npy", "labels.npy"):
                file.writestr(name, b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(96))
        return packed.getvalue()

    heads = mutated({"descr": "|u1", "fortran_order": False, "shape": [6, 4, 4]}).map(
        lambda value: header(repr(value).replace("[", "(").replace("]", ",)"))
    )
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return st.one_of(made(), damaged(packed.getvalue()), heads)


def read_npz(material, content):
    file = material.box / "data.npz"
    file.write_bytes(content)
    refused = 0
    for reader in (lambda: npz(path=file), lambda: read_samples(file, mixture(num_classes=3, per_class=2))):
        try:
            reader()
        except CbdmError as error:
            plain(error)
            refused += 1
    if refused:
        raise CbdmError("refused")


def npy_folders(material):
    """Files of arrays, of which one or two are others, damaged, or have a forged header."""
    own = {f"{stem}-{i}": value for i in range(2) for stem, value in (("images", PIXELS), ("labels", np.arange(6) % 3))}

    def saved(value):
        packed = io.BytesIO()
        np.save(packed, value)
        return packed.getvalue()

    def header(text):
        head = f"{text}\n".encode()
        return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(96)

    heads = mutated({"descr": "|u1", "fortran_order": False, "shape": [6, 4, 4]}).map(
        lambda value: header(repr(value).replace("[", "(").replace("]", ",)"))
    )
    other = st.one_of(array(PIXELS).map(saved), array(own["labels-0"]).map(saved), damaged(saved(PIXELS)), heads)
    twists = st.dictionaries(st.sampled_from([*own, "images", "class_names"]), other, min_size=1, max_size=2)
    whole = {name: saved(value) for name, value in own.items()}
    return twists.map(lambda twist: {**whole, **twist})


def read_npy(material, files):
    place = fresh(material, "arrays")
    for name, content in files.items():
        (place / (f"{name}.txt" if name == "class_names" else f"{name}.npy")).write_bytes(content)
    data = npy(path=place)
    assert len(data.model_input(torch.arange(len(data))[-2:])) == min(2, len(data)) and data.content_hash()


def folders(material):
    pictures = {}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        packed = io.BytesIO()
        Image.new("RGB", (5, 5), (9, 8, 7)).save(packed, format=kind)
        pictures[kind] = packed.getvalue()
    name = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=9)
    picture = st.sampled_from(sorted(pictures)).flatmap(
        lambda kind: st.one_of(st.just(pictures[kind]), damaged(pictures[kind]))
    )
    return st.tuples(
        st.lists(st.tuples(st.one_of(st.sampled_from("ab"), name), name, picture), max_size=4),
        st.sampled_from(("", "fifo", "nested", "stray", "empty", "loop")),
        st.sampled_from((True, False, 5, "yes", None)),
    )


def read_folder(material, given):
    entries, twist, allow = given
    place = fresh(material, "images")
    for label, name, content in entries:
        with contextlib.suppress(OSError):
            (place / label).mkdir(exist_ok=True)
            (place / label / name).write_bytes(content)
    if twist == "stray":
        (place / "stray.png").write_bytes(b"x")
    elif twist:
        (place / "a").mkdir(exist_ok=True)
        if twist == "fifo":
            os.mkfifo(place / "a" / "pipe.png")
        elif twist == "nested":
            (place / "a" / "deeper").mkdir(exist_ok=True)
        elif twist == "loop":
            (place / "a" / "loop").symlink_to(place / "a" / "loop")
    data = folder(path=place, allow_empty=allow)
    assert all(text.isprintable() for text in data.class_names)


def results(material):
    plan = json.loads((material.comparison / COMPARISON_FILE).read_text())
    reading = next(p for p in sorted(material.comparison.rglob("*.json")) if p.parent.name == READINGS)
    run = reading.parent.parent
    records = (material.run / "metrics.jsonl").read_bytes()
    record = mutated(json.loads(records.splitlines()[0])).map(lambda value: json.dumps(value).encode())

    def under(file, contents):
        return contents.map(lambda content: (str(file.relative_to(material.comparison)), content))

    return st.one_of(
        under(material.comparison / COMPARISON_FILE, as_json(plan)),
        under(reading, as_json(json.loads(reading.read_text()))),
        under(run / "metrics.jsonl", st.one_of(damaged(records), record)),
        under(run / "config.toml", mutated(material.config).map(toml)),
        under(run / "diagnosis.json", as_json(json.loads((run / "diagnosis.json").read_text()))),
        under(run / "environment.json", as_json(json.loads((run / "environment.json").read_text()))),
    )


def read_results(material, given):
    name, content = given
    place = material.box / "comparison"
    if not place.exists():
        shutil.copytree(material.comparison, place)
    before = (place / name).read_bytes()
    try:
        (place / name).write_bytes(content)
        summarise(place, load_plan(place))
        collect([place])
        if name.endswith(".jsonl"):
            Metrics(place / name, 1).close()
    finally:
        (place / name).write_bytes(before)


LOADERS = {
    "configuration": (configurations, read_configuration),
    "run": (runs, read_run),
    "checkpoint": (checkpoints, read_checkpoint),
    "import": (imports, read_import),
    "npz": (npz_files, read_npz),
    "npy": (npy_folders, read_npy),
    "folder": (folders, read_folder),
    "results": (results, read_results),
}


# --- small helpers -----------------------------------------------------------------------------------------------


def toml(tree):
    """As TOML, where it can be said in it; else as text that is none."""
    try:
        return tomli_w.dumps(tree).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, AttributeError):
        return repr(tree).encode("utf-8", "surrogatepass")


def dotted(tree, prefix=""):
    """The dotted names in nested tables."""
    return [
        name
        for key, value in tree.items()
        for name in (f"{prefix}{key}", *(dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else ()))
    ]


def number(value):
    return abs(value) if isinstance(value, int | float) and math.isfinite(value) else 1


def fresh(material, name):
    """An empty folder of the name in the box."""
    place = material.box / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


def torch_files(content):
    """What `torch.save` writes of a table with tensors changed, or other values among them."""
    tensors = st.one_of(hostile(), st.just(torch.zeros(2, 2)).flatmap(tensor))

    def packed(value):
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    @st.composite
    def changed(draw):
        tree = draw(mutated(Opaque(plain_table(content)), tensors))
        for holder, key in draw(st.lists(st.sampled_from(leaves(tree) or [({}, "a")]), max_size=2)):
            if isinstance(holder.get(key) if isinstance(holder, dict) else None, torch.Tensor):
                holder[key] = draw(tensor(holder[key]))
        return packed(tree)

    return changed()


def plain_table(tree):
    return {k: plain_table(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def leaves(tree):
    if not isinstance(tree, dict):
        return []
    return [
        pair
        for key, value in tree.items()
        for pair in ([(tree, key)] if isinstance(value, torch.Tensor) else leaves(value))
    ]


def plain(error: CbdmError) -> None:
    """The message is one line for people, and gives no advice to load what runs code."""
    text = str(error)
    assert text and not any(word in text for word in ADVICE), text


def fuzz(name: str, material: Material, examples: int, *, derandomize: bool) -> tuple[int, float]:
    """Try a loader with so many examples.

    Args:
        name: of the loader.
        material: what is damaged.
        examples: how many.
        derandomize: the same ones at each call.

    Returns:
        How many were refused, and the longest processor time of one in seconds.

    Raises:
        Exception: whatever else than a refusal a loader raised, with the example.
    """
    strategy, read = LOADERS[name]
    refused, longest = 0, 0.0

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(given_=strategy(material))
    def one(given_):
        nonlocal refused, longest
        began = time.process_time()
        try:
            with within(SECONDS), np.errstate(all="ignore"):
                read(material, given_)
        except CbdmError as error:
            plain(error)
            refused += 1
        except Exception as error:
            if not no_memory(error):
                raise
            refused += 1
        longest = max(longest, time.process_time() - began)

    with small_memory():
        one()
    assert material.listing() == material.outside, "something was written outside the folder"
    return refused, longest


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="examples, over all loaders")
    parser.add_argument("--only", choices=sorted(LOADERS), help="one loader")
    chosen = parser.parse_args()
    names = [chosen.only] if chosen.only else list(LOADERS)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        material = Material(Path(place))
        for name in names:
            began = time.monotonic()
            count = chosen.n // len(names)
            refused, longest = fuzz(name, material, count, derandomize=False)
            print(
                f"{name}: {count:,} examples, {refused:,} refused, none raised, the slowest {longest:.2f} s, "
                f"{time.monotonic() - began:.0f} s in all",
                flush=True,
            )


if __name__ == "__main__":
    main()
