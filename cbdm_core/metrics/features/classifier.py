"""Features to judge samples in: the last hidden layer of a small classifier trained on the data themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.features.cache import DamagedError, Facts, cache_path, read_cached, write_cached

__all__ = [
    "Classifier",
    "FeatureExtractor",
    "cached_classifier",
    "network_outputs",
    "stratified_split",
    "train_classifier",
    "train_network",
]

VERSION = 1  # of the network and its training: raise it with any change to them, so that old caches are not read

_FEATURES = 48
_WIDTH = 32
_BATCH = 64
_EPOCHS, _STEPS = 20, (400, 2000)  # as many steps as the epochs need, within these bounds
_RATE, _DECAY = 3e-3, 1e-3
_HELD_OUT = 0.2


class FeatureExtractor(Protocol):
    """What `evaluate` asks of an extractor: features to compare, and what class it takes a sample for.

    Attributes:
        convention: a name to store beside every figure; figures of different names must not be compared.
        note: a caution to print with it.
        held_out_accuracy: of its labels on data it never saw, or None where nobody knows.
    """

    @property
    def convention(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def held_out_accuracy(self) -> float | None: ...

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, *shape) float32 in the model's range → (N, D) float64 features, (N, K) float64 log-probabilities."""
        ...


class Classifier:
    """A trained classifier as a feature extractor; a row's result does not depend on the other rows.

    Args:
        network: maps (N, *shape) to ((N, D) features, (N, K) logits).
        shape: of one example.
        num_classes: K.
        data_hash: `Dataset.content_hash` of the data it was trained on.
        held_out_accuracy: in [0, 1], on the stratified fifth of the data it never saw.
    """

    note = "not comparable with papers"

    def __init__(
        self, network: nn.Module, shape: tuple[int, ...], num_classes: int, data_hash: str, held_out_accuracy: float
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.shape = shape
        self.num_classes = num_classes
        self.data_hash = data_hash
        self.held_out_accuracy = held_out_accuracy

    @property
    def convention(self) -> str:
        """The name of these features: "classifier/" and eight digits of the data's hash."""
        return f"classifier/{self.data_hash[:8]}"

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, *shape) float32 in the model's range → (N, D) float64 features, (N, K) float64 log-probabilities.

        Raises:
            CbdmError: examples of another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise CbdmError(
                f"the classifier was trained on examples of shape {self.shape}, got {tuple(x.shape[1:])}: give it "
                "samples of the same data set"
            )
        if len(x) == 0:
            return x.new_empty(0, _FEATURES, dtype=torch.float64), x.new_empty(0, self.num_classes, dtype=torch.float64)
        return network_outputs(self.network, x)

    def features(self, x: Tensor) -> Tensor:
        """(N, *shape) → (N, D) float64 features."""
        return self(x)[0]

    def predict(self, x: Tensor) -> Tensor:
        """(N, *shape) → (N,) long, the most probable class of each."""
        return self(x)[1].argmax(1)


class _Network(nn.Module):
    """A trunk, a hidden layer whose activations are the features, and a linear head."""

    def __init__(self, trunk: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.hidden = nn.Linear(width, _FEATURES)
        self.head = nn.Linear(_FEATURES, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = F.silu(self.hidden(self.trunk(x)))
        return z, self.head(z)


class _Standardise(nn.Module):
    """Each coordinate to mean 0 and variance 1 over the training rows; one that does not vary keeps its scale."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(dimension))

    def fit(self, x: Tensor) -> None:
        varies = x.amin(0) < x.amax(0)  # or a sample a little off in a column of one value would be all that is seen
        self.mean = x.mean(0)
        self.scale = torch.where(varies, x.std(0, correction=0), 1.0).clamp(min=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def _vector_network(dimension: int, num_classes: int) -> nn.Module:
    trunk = nn.Sequential(_Standardise(dimension), nn.Linear(dimension, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
    return _Network(trunk, 128, num_classes)


def _image_network(shape: Sequence[int], num_classes: int) -> nn.Module:
    """Convolutions, halving the image until 4 pixels or fewer are left on its shortest side."""
    dims, shortest = len(shape) - 1, min(shape[1:])
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]

    def layer(before: int, after: int, stride: int) -> list[nn.Module]:
        # Group norm, not batch norm: a row's features must not depend on its batch.
        return [conv(before, after, 3, stride, padding=1), nn.GroupNorm(8, after), nn.SiLU()]

    stride = 2 if shortest > 16 else 1
    layers, width, side = layer(shape[0], _WIDTH, stride), _WIDTH, shortest // stride
    while side > 4 or width == _WIDTH:
        layers += [*layer(width, 2 * _WIDTH, 2), *layer(2 * _WIDTH, 2 * _WIDTH, 1)]
        width, side = 2 * _WIDTH, side // 2
    return _Network(nn.Sequential(*layers, pool(2), nn.Flatten()), width * 2**dims, num_classes)


def _network(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    if not 1 <= len(shape) <= 4:
        raise CbdmError(f"examples of shape {shape}: a classifier takes vectors, or channels and 1 to 3 spatial axes")
    net = _vector_network(shape[0], num_classes) if len(shape) == 1 else _image_network(shape, num_classes)
    return net.float()


def stratified_split(y: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(kept, held out) row numbers: `share` of each class held out, at least one where it has two or more.

    Args:
        y: (N,) long labels.
        share: in [0, 1); a class of n has round(share·n) rows held out.
        generator: of the shuffles.
    """
    kept, held = [], []
    for label in y.unique().tolist():
        rows = (y == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = max(round(share * len(rows)), min(1, len(rows) - 1))
        held.append(rows[:count])
        kept.append(rows[count:])
    return torch.cat(kept), torch.cat(held)


def train_classifier(dataset: Dataset, *, seed: int = 0) -> Classifier:
    """A small classifier trained on four fifths of each class: a conv net for images, an MLP for vectors.

    Cross-entropy, AdamW with a one-cycle rate, 20 epochs (between 400 and 2,000 steps of 64). The same seed gives the
    same weights on the same machine, and the global random state is as before.

    Args:
        dataset: balanced, or nearly so; the accuracy is over its rows.
        seed: of the split, the initial weights and the batches.

    Raises:
        CbdmError: examples of more than 3 spatial axes, or no class of 2 examples or more to hold one out.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, held = stratified_split(dataset.y, _HELD_OUT, generator)
    if len(held) == 0:
        raise CbdmError("every class has 1 example: a classifier to judge with needs a class of 2 or more")
    network = train_network(dataset.model_input(kept), dataset.y[kept], dataset.num_classes, generator)
    classifier = Classifier(network, dataset.shape, dataset.num_classes, dataset.content_hash(), 0.0)
    right = classifier.predict(dataset.model_input(held)) == dataset.y[held]
    classifier.held_out_accuracy = float(right.double().mean())
    return classifier


def train_network(
    x: Tensor, y: Tensor, num_classes: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> nn.Module:
    """The network of `train_classifier`, trained on all of these rows, in eval mode; `network_outputs` applies it.

    Initial weights and batches are functions of the generator's state, which stays as it is, as does the global one.

    Args:
        x: (n, …) float in the model's range, n ≥ 1.
        y: (n,) long in [0, K).
        num_classes: K.
        generator: on the CPU.
        device: to train on.

    Raises:
        CbdmError: examples of more than 3 spatial axes.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        ours = torch.default_generator
        ours.set_state(generator.get_state())  # initial weights come from the default generator
        network = _network(tuple(x.shape[1:]), num_classes).to(device)
        _fit(network, x.to(device, torch.float32), y.to(device), ours)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def network_outputs(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) float64 features and (N, K) float64 log-probabilities of a network of `train_network`, on its device.

    Args:
        network: in eval mode.
        x: (N, …) float in the model's range, N ≥ 1; examples of the shape it was trained on.
    """
    device = next(network.parameters()).device
    parts = [network(rows) for rows in x.to(device, torch.float32).split(512)]
    features, logits = (torch.cat(column).double() for column in zip(*parts, strict=True))
    return features, logits.log_softmax(1)


def _fit(network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, _Standardise):
            module.fit(x)
    steps = min(max(_STEPS[0], math.ceil(_EPOCHS * len(x) / _BATCH)), _STEPS[1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    for rows in _rows_of_batches(len(x), steps, generator):
        loss = F.cross_entropy(network(x[rows])[1], y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _rows_of_batches(count: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of row numbers; every row comes once before any comes again."""
    waiting = torch.empty(0, dtype=torch.long)
    size = min(_BATCH, count)
    for _ in range(steps):
        if len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


@dataclass(frozen=True)
class _Facts(Facts):
    """What a kept classifier depends on."""

    seed: int
    shape: tuple[int, ...]
    num_classes: int


def cached_classifier(dataset: Dataset, *, cache_dir: Path | str | None = None, seed: int = 0) -> Classifier:
    """`train_classifier`, trained once for each (data, seed) and kept on disk as safetensors.

    A file that is damaged, or belongs to other data or another version, is trained anew and replaced; a folder that
    can't be written is done without. No pickle is read or written.

    Args:
        dataset: as of `train_classifier`.
        cache_dir: the folder; default `$CBDM_CACHE`, else `$XDG_CACHE_HOME/cbdm`, else `~/.cache/cbdm`.
        seed: as of `train_classifier`.
    """
    facts = _Facts(VERSION, dataset.content_hash(), seed, dataset.shape, dataset.num_classes)
    path = cache_path(cache_dir, "classifier", facts)
    found = path and _read(path, facts)
    if found:
        return found
    classifier = train_classifier(dataset, seed=seed)
    if path:
        _write(path, classifier, facts)
    return classifier


def _read(path: Path, facts: _Facts) -> Classifier | None:
    """The classifier in the file, or None where there is none that is whole and of these facts."""
    try:
        found = read_cached(path, facts)
        if not found or found[1].keys() != {"held_out_accuracy"}:
            return None
        weights, accuracy = found[0], float(found[1]["held_out_accuracy"])
        with torch.random.fork_rng(devices=[]):
            network = _network(facts.shape, facts.num_classes)
        network.load_state_dict(weights)
    except (DamagedError, ValueError, TypeError, RuntimeError):
        return None
    return Classifier(network, facts.shape, facts.num_classes, facts.data_hash, accuracy)


def _write(path: Path, classifier: Classifier, facts: _Facts) -> None:
    weights = {name: value.cpu().contiguous() for name, value in classifier.network.state_dict().items()}
    write_cached(path, facts, weights, {"held_out_accuracy": classifier.held_out_accuracy})
