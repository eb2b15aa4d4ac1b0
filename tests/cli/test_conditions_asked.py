"""What `--labels` draws."""

from types import SimpleNamespace

import pytest
import torch

from cbdm import make_law
from cbdm_cli.conditions_asked import labels_of
from cbdm_core.generation import labels_from


@pytest.mark.parametrize(
    ("text", "labels"),
    [("cat", [0]), ("2,cat, great owl", [2, 0, 1]), ("1", [1]), ("uniform, cat", [3, 0]), ("cyclic", [0, 1, 2, 3])],
)
def test_classes_are_drawn_by_number_or_name(text, labels):
    """A number is a label although another class is called so; alone, a law goes before the class of its name."""
    run = SimpleNamespace(class_names=("cat", "great owl", "1", "uniform"), counts=torch.tensor([4, 3, 2, 1]))
    assert labels_of(text, len(labels), run, 0).tolist() == labels
    law = labels_of("uniform", 4000, run, 0)
    assert torch.equal(law, labels_from(make_law("uniform", run.counts), 4000, 0)) and law.unique().tolist() == [
        0,
        1,
        2,
        3,
    ]
