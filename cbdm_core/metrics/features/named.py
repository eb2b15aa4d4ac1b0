"""Where features come from, by name: the data's own classifier, the pixels, Inception, TorchScript, or a function."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError, closest
from cbdm_core.metrics.features.classifier import FeatureExtractor, cached_classifier
from cbdm_core.metrics.features.inception import PUBLISHED, Inception, load_inception, read_file, read_weights

__all__ = ["Mapped", "check_features", "feature_extractor"]

_SOURCES = "classifier, pixels, inception:PATH, torchscript:PATH, or module:attr"


@dataclass(frozen=True, eq=False)
class Mapped:
    """Features of a map that knows nothing of the classes: its log-probabilities have no column.

    Args:
        map: (B, *shape) float32 in the model's range → (B, D) finite floats, each row of its own example alone.
        shape: of one example.
        convention: as of `FeatureExtractor`.
        note: as of `FeatureExtractor`.
        device: to compute on.
        rows: the most examples in one call, ≥ 1.
        held_out_accuracy: None, since there are no labels.
    """

    map: Callable[[Tensor], Any]
    shape: tuple[int, ...]
    convention: str
    note: str
    device: torch.device | str = "cpu"
    rows: int = 256
    held_out_accuracy: None = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, *shape) float in the model's range → (N, D) float64 features on the CPU, (N, 0) float64: no classes.

        Raises:
            CbdmError: examples of another shape, or features that are no finite (B, D).
        """
        if tuple(x.shape[1:]) != self.shape:
            raise CbdmError(
                f"the features {self.convention} are taken of examples of shape {self.shape}, got "
                f"{tuple(x.shape[1:])}: give samples of the same data set"
            )
        asked = x if len(x) else x.new_zeros(1, *self.shape)  # one row tells D where there is none
        parts = [self._checked(part.to(self.device, torch.float32)) for part in asked.split(self.rows)]
        features = torch.cat(parts)[: len(x)]
        return features, features.new_empty(len(x), 0)

    def _checked(self, x: Tensor) -> Tensor:
        try:
            found = self.map(x)
        except CbdmError:
            raise
        except Exception as error:  # the map is anybody's code
            raise CbdmError(
                f"the features {self.convention} fail on examples of shape {self.shape}: {_one_line(error)}; their map "
                "must take (B, *shape) float32, images in [-1, 1]"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x) or 0 in found.shape:
            form = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
            raise CbdmError(
                f"the features {self.convention} of {len(x)} examples are of {form}: they must be a tensor of "
                f"({len(x)}, D), D ≥ 1; flatten them or choose one of them"
            )
        features = found.detach().cpu().double()
        bad = int((~torch.isfinite(features)).any(1).sum())
        if bad:
            raise CbdmError(
                f"the features {self.convention} of {bad} of {len(x)} examples are NaN or infinite: the map must take "
                f"examples of shape {self.shape}, images in [-1, 1]"
            )
        return features


def feature_extractor(
    text: str, dataset: Dataset, *, device: torch.device | str = "cpu", cache_dir: Path | str | None = None
) -> FeatureExtractor:
    """The extractor that `text` names, for examples of this data set.

    `classifier` is trained on the data themselves; only it knows the classes. `pixels` is the model's input, flattened.
    `inception:PATH` is FID's network with pytorch-fid's weights, read without running code. `torchscript:PATH` is a
    program saved by torch.jit.save and `module:attr` anything importable, such as `mypackage.net:features`, both
    (B, *shape) float32, images in [−1, 1] → (B, D). THESE TWO RUN CODE, from the file or the module: name only those
    you trust.

    Args:
        text: `classifier`, `pixels`, `inception:PATH`, `torchscript:PATH` or `module:attr`.
        dataset: whose examples are to be judged.
        device: to compute on, except for the classifier and functions that choose for themselves.
        cache_dir: of `cached_classifier`.

    Raises:
        CbdmError: another name, a file that is missing or of another kind, or a data set that the extractor can't take.
    """
    kind, rest = _parsed(text)
    if (kind, rest) == ("classifier", ""):
        return cached_classifier(dataset, cache_dir=cache_dir)
    if (kind, rest) == ("pixels", ""):
        what = "raw pixels" if dataset.units is None else "the model's input, flattened"
        return Mapped(lambda x: x.flatten(1), dataset.shape, "pixels", f"{what}, not comparable with papers")
    if kind == "inception":
        return _inception(Path(rest), dataset, device)
    if kind == "torchscript":
        return _torchscript(Path(rest), dataset, device)
    return _importable(kind, rest, dataset, device)


def check_features(text: str, dataset: Dataset) -> None:
    """Refuse early what `feature_extractor` can't find: no network is built, no file is read, but a module is imported.

    Args:
        text: as of `feature_extractor`.
        dataset: whose examples are to be judged.

    Raises:
        CbdmError: another name, a file that can't be opened, a module or attribute that can't be imported, or a data
            set that is known not to fit.
    """
    kind, rest = _parsed(text)
    if kind == "inception":
        _check_images(dataset)
        read_weights(Path(rest), 0)
    elif kind == "torchscript":
        _read_program(Path(rest), 0)
    elif rest:
        _imported(kind, rest)


def _parsed(text: str) -> tuple[str, str]:
    """("classifier" or "pixels", ""), or what is before and after the colon, neither checked further."""
    kind, colon, rest = text.strip().partition(":")
    if (not colon and kind in ("classifier", "pixels")) or rest:
        return kind, rest
    near = closest(kind, ("classifier", "pixels", "inception", "torchscript"))
    hint = f" did you mean {near!r}?" if near else ""
    raise CbdmError(f"unknown features {text!r}:{hint} allowed: {_SOURCES}")


def _check_images(dataset: Dataset) -> None:
    if not dataset.is_images or len(dataset.shape) != 3 or dataset.shape[0] not in (1, 3):
        raise CbdmError(
            f"Inception takes images of 1 or 3 channels, the examples have shape {dataset.shape}: use classifier, "
            "pixels, or a map of your own as module:attr"
        )


def _inception(path: Path, dataset: Dataset, device: torch.device | str) -> Mapped:
    _check_images(dataset)
    network, digits = load_inception(path)
    name = "pt_inception-2015-12-05" if digits == PUBLISHED else path.stem
    note = "FID's published weights, resized as pytorch-fid does"
    if digits != PUBLISHED:
        note = f"Inception weights {digits}, not the published {PUBLISHED}: not comparable with papers"
    convention = f"inception/{name}/{digits}, input [-1, 1], {Inception.resize}"
    return Mapped(network.to(device), dataset.shape, convention, note, device, rows=32)


def _torchscript(path: Path, dataset: Dataset, device: torch.device | str) -> Mapped:
    content = _read_program(path)
    try:
        program = torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except RuntimeError as error:
        raise CbdmError(f"{path} is no TorchScript program: save it with torch.jit.save") from error
    digits = hashlib.sha256(content).hexdigest()[:8]
    note = f"features of the TorchScript program {path.name}, which runs its own code"
    return Mapped(program, dataset.shape, f"torchscript/{path.stem}/{digits}, input [-1, 1]", note, device)


def _read_program(path: Path, count: int = -1) -> bytes:
    return read_file(path, "the TorchScript file", "give the path of a file saved by torch.jit.save", count)


def _one_line(error: BaseException) -> str:
    """Its kind and the last line of its text, which is where torch's traces name the cause."""
    kind, lines = type(error).__name__, str(error).strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return last if last.startswith(kind) else f"{kind}: {last}".removesuffix(": ")


def _importable(module: str, attribute: str, dataset: Dataset, device: torch.device | str) -> Mapped:
    name = f"{module}:{attribute}"
    owner, found = _imported(module, attribute)
    if isinstance(found, nn.Module):
        found = found.to(device).eval()
    convention = f"module/{name}{_digits_of(owner)}, input [-1, 1]"
    note = f"features of {name}; their name tells the code of that file, not what it imports or loads"
    return Mapped(found, dataset.shape, convention, note, device)


def _imported(module: str, attribute: str) -> tuple[Any, Callable[[Tensor], Any]]:
    """(the module, what it has under that name), which can be called."""
    name = f"{module}:{attribute}"
    try:
        owner = import_module(module)
        found = attrgetter(attribute)(owner)
    except (Exception, SystemExit) as error:  # the module is anybody's code, a script that ends itself among it
        near = closest(module, ("inception", "torchscript"))
        hint = f"did you mean {near}:PATH? allowed" if near else f"{_mend(error)}; allowed"
        raise CbdmError(f"the features {name!r} cannot be imported: {_one_line(error)}; {hint}: {_SOURCES}") from error
    if isinstance(found, type) or not callable(found):
        raise CbdmError(
            f"the features {name!r} are {'a class' if isinstance(found, type) else f'of type {type(found).__name__}'}: "
            "name a function or an instance that maps (B, *shape) to (B, D)"
        )
    return owner, found


def _mend(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "install the module or add its folder to PYTHONPATH"
    return "mend the module or the name"


def _digits_of(module: Any) -> str:
    """ "/" and eight digits of the hash of the module's file, or nothing where it has none."""
    try:
        return "/" + hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()[:8]
    except (AttributeError, TypeError, OSError):
        return ""
