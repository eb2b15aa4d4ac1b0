"""The Inception network that published FIDs are taken in: torchvision's v3 with the pooling of the 2015 original."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cbdm_core.errors import CbdmError, closest

__all__ = ["PUBLISHED", "Inception", "load_inception", "read_file", "read_weights", "state_of"]

PUBLISHED = "6726825d"  # the SHA-256 of pt_inception-2015-12-05-6726825d.pth begins so

_COUNTERS = ".num_batches_tracked"  # of batch norms; inference does not need them, and old files lack them


class _Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _row(before: int, after: int, length: int) -> _Conv:
    """1 × length, the image's size kept."""
    return _Conv(before, after, (1, length), padding=(0, length // 2))


def _column(before: int, after: int, length: int) -> _Conv:
    """Length × 1, the image's size kept."""
    return _Conv(before, after, (length, 1), padding=(length // 2, 0))


def _average(x: Tensor) -> Tensor:
    """The mean over 3 × 3 of the pixels that are there: FID's network does not count padding, torchvision's does."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class _A(nn.Module):
    """35 × 35: 1 × 1, 5 × 5, two of 3 × 3, and a pool."""

    def __init__(self, before: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(before, 64, 1)
        self.branch5x5_1 = _Conv(before, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(before, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], 1)


class _B(nn.Module):
    """35 × 35 → 17 × 17."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(before, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(before, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _halved(x)], 1)


class _C(nn.Module):
    """17 × 17: 1 × 1, one and two of 7 × 7 as rows and columns, and a pool."""

    def __init__(self, before: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(before, 192, 1)
        self.branch7x7_1 = _Conv(before, inner, 1)
        self.branch7x7_2 = _row(inner, inner, 7)
        self.branch7x7_3 = _column(inner, 192, 7)
        self.branch7x7dbl_1 = _Conv(before, inner, 1)
        self.branch7x7dbl_2 = _column(inner, inner, 7)
        self.branch7x7dbl_3 = _row(inner, inner, 7)
        self.branch7x7dbl_4 = _column(inner, inner, 7)
        self.branch7x7dbl_5 = _row(inner, 192, 7)
        self.branch_pool = _Conv(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class _D(nn.Module):
    """17 × 17 → 8 × 8."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(before, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(before, 192, 1)
        self.branch7x7x3_2 = _row(192, 192, 7)
        self.branch7x7x3_3 = _column(192, 192, 7)
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, _halved(x)], 1)


class _E(nn.Module):
    """8 × 8: 1 × 1, 3 × 3 split into a row and a column side by side, and a pool, of maxima in the last block."""

    def __init__(self, before: int, *, maxima: bool) -> None:
        super().__init__()
        self.maxima = maxima
        self.branch1x1 = _Conv(before, 320, 1)
        self.branch3x3_1 = _Conv(before, 384, 1)
        self.branch3x3_2a = _row(384, 384, 3)
        self.branch3x3_2b = _column(384, 384, 3)
        self.branch3x3dbl_1 = _Conv(before, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _row(384, 384, 3)
        self.branch3x3dbl_3b = _column(384, 384, 3)
        self.branch_pool = _Conv(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        split = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        split += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maxima else _average(x)
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """Images in [−1, 1] → the 2,048 pool features, with the parameter names of pytorch-fid's weights.

    The 2015 original differs from torchvision's v3 in its pools: averages do not count the padding, and the last block
    takes maxima. The head of 1,008 classes is carried for its weights only.

    Source: Szegedy et al. 2016 (arXiv 1512.00567), table 1; Heusel et al. 2017 (arXiv 1706.08500).
    """

    resize = "bilinear to 299 without antialiasing or aligned corners"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            _C(768, 128),
            _C(768, 160),
            _C(768, 160),
            _C(768, 192),
        )
        self.Mixed_7a = _D(768)
        self.Mixed_7b, self.Mixed_7c = _E(1280, maxima=False), _E(2048, maxima=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [−1, 1] → (B, 2048); one channel is shown as grey."""
        x = F.interpolate(x.expand(-1, 3, -1, -1), size=(299, 299), mode="bilinear", align_corners=False)
        x = _halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


def read_file(path: Path, what: str, mend: str, count: int = -1) -> bytes:
    """What the file holds; "~" at the start of its path is a home folder.

    Args:
        path: of the file.
        what: the file's part in the error's sentence, such as "the weights".
        mend: the end of that sentence.
        count: bytes to read, all for −1; 0 only tries whether it opens.

    Raises:
        CbdmError: a path that can't be, or a file that can't be read.
    """
    try:
        with path.expanduser().open("rb") as file:
            return file.read(count)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL byte; RuntimeError: a user without a home
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).rstrip(".")
        raise CbdmError(f"{what} {_printable(path)} cannot be read: {reason}; {mend}") from error


def _printable(path: Path) -> str:
    """The path as it is, or in quotes and escaped where it would break a line."""
    return str(path) if str(path).isprintable() else repr(str(path))


def read_weights(path: Path, count: int = -1) -> bytes:
    """`read_file` of Inception's weights."""
    mend = f"give the path of pt_inception-2015-12-05-{PUBLISHED}.pth, as pytorch-fid publishes it"
    return read_file(path, "the Inception weights", mend, count)


def load_inception(path: Path) -> tuple[Inception, str]:
    """(the network in eval mode on the CPU, the first 8 hex digits of the file's SHA-256), read without running code.

    Raises:
        CbdmError: a file that is missing or holds anything but tensors, keys that are missing or unexpected, shapes or
            values that do not fit.
    """
    content = read_weights(path)
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its archive reader, its unpickler or its maps happen to raise
        raise CbdmError(
            f"{path} holds no weights that can be read without running code: it may be damaged; download it again"
        ) from error
    return state_of(saved, str(path)), hashlib.sha256(content).hexdigest()[:8]


def state_of(saved: object, name: str) -> Inception:
    """The network with these weights, key for key.

    Args:
        saved: parameter name → tensor, all 472 of them; the batch norms' counters may be there or not.
        name: what an error calls the weights.

    Raises:
        CbdmError: no table of tensors, keys that are missing or unexpected, shapes or values that do not fit.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise CbdmError(f"{name} holds no table of tensors: save the network's state_dict() and give its path")
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
        network = Inception()
    wanted = network.state_dict()
    given = {str(key): value for key, value in saved.items()}
    _check_keys({k for k in given if not k.endswith(_COUNTERS)}, {k for k in wanted if not k.endswith(_COUNTERS)}, name)
    weights = {key: given[key].float() for key in wanted if not key.endswith(_COUNTERS)}
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            raise CbdmError(
                f"{name}: {key!r} has shape {tuple(value.shape)}, FID's Inception has {tuple(wanted[key].shape)}: give "
                "the weights that pytorch-fid publishes"
            )
        if not torch.isfinite(value).all():
            raise CbdmError(f"{name}: {key!r} holds NaN or infinite values: download the weights again")
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith(_COUNTERS)}
    network.load_state_dict({**weights, **counters}, assign=True)
    return network.eval().requires_grad_(False)


def _check_keys(given: Collection[str], wanted: Collection[str], name: str) -> None:
    missing, unexpected = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if not missing and not unexpected:
        return
    odd, others = (missing[0], unexpected) if missing else (unexpected[0], sorted(wanted))
    near = closest(odd, others)
    hint = f"; the closest {'there' if missing else 'allowed'} is {near!r}" if near else ""
    raise CbdmError(
        f"{name}: {len(missing)} keys of FID's Inception are missing and {len(unexpected)} are not its own, first "
        f"{odd!r}{hint}: give the weights that pytorch-fid publishes, or rename the keys"
    )
