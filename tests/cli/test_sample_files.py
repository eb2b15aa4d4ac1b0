"""Samples as files are data again: examples, classes, and what the network was told."""

import pytest
import torch

from cbdm_cli.sample_files import WRITERS, Drawn
from cbdm_core.data.dataset import to_uint8
from cbdm_core.data.npz import npz

LABELS = torch.tensor([0, 2, 1, 0])


@pytest.mark.parametrize("told", [torch.tensor([[0, 1], [1, 1], [1, 0], [0, 1]]), torch.linspace(-1, 2, 12).view(4, 3)])
@pytest.mark.parametrize("images", [True, False])
def test_an_npz_of_samples_is_read_with_its_conditions(tmp_path, told, images):
    x = torch.linspace(-1, 1, 4 * 3 * 5).view(4, 1, 3, 5) if images else torch.linspace(-3, 3, 8).view(4, 2)
    WRITERS["npz"](tmp_path / "drawn.npz", Drawn(x, images, LABELS, told, ("a", "b", "c"), (3, 2, 1)))
    data = npz(path=tmp_path / "drawn.npz")
    assert torch.equal(data.x, to_uint8(x) if images else x)
    assert torch.equal(data.y, LABELS) and data.class_names == ("a", "b", "c")
    assert torch.equal(data.condition, told) and data.condition.dtype == told.dtype


def test_samples_by_class_have_no_conditions(tmp_path):
    x = torch.zeros(4, 1, 3, 5)
    WRITERS["npz"](tmp_path / "drawn.npz", Drawn(x, True, LABELS, LABELS, ("a", "b", "c"), (3, 2, 1)))
    assert npz(path=tmp_path / "drawn.npz").condition is None
