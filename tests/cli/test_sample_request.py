"""What `--labels` draws."""

from types import SimpleNamespace

import pytest
import torch

from cbdm import make_law
from cbdm_cli.sample_request import labels_of, sample_request
from cbdm_core.errors import CbdmError
from cbdm_core.generation import labels_from

NAMES = ("cat", "great owl", "1", "uniform", "tench, Tinca tinca", " dog", "cafe\u0301", "tench", "40")
RUN = SimpleNamespace(class_names=NAMES, counts=torch.arange(len(NAMES), 0, -1))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat", [0]),
        ("2,cat, great owl", [2, 0, 1]),
        ("1", [1]),
        ("uniform, cat", [3, 0]),
        ("tench, Tinca tinca", [4]),
        ("cat,tench,Tinca tinca,1,tench", [0, 4, 1, 7]),
        ("tench,cat", [7, 0]),
        (" dog,dog", [5, 5]),
        ("caf\u00e9", [6]),
        ("cyclic", [0, 1, 2, 3]),
    ],
)
def test_classes_are_drawn_by_number_or_name(text, labels):
    """A number is a label although another class is called so, and of names the longest goes first."""
    assert labels_of(text, len(labels), RUN, 0).tolist() == labels


def test_alone_a_law_goes_before_the_class_of_its_name():
    law = labels_of("uniform", 4000, RUN, 0)
    assert torch.equal(law, labels_from(make_law("uniform", RUN.counts), 4000, 0))
    assert law.unique().tolist() == list(range(len(NAMES)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no class of this run: allowed: cyclic, "),
        ("cat,", "'' is no class"),
        ("Tinca tinca", "'Tinca tinca' is no class of this run: did you mean 'tench, Tinca tinca'?"),
        ("tench, Tinca", "'Tinca' is no class of this run:"),
        ("9", r"label 9 is out of range; the run has labels 0 … 8$"),
        ("cat,40", r"label 40 is out of range; the run has labels 0 … 8, and the class '40' is 8$"),
    ],
)
def test_what_is_neither_number_nor_class_is_told(text, words):
    with pytest.raises(CbdmError, match=words):
        labels_of(text, None, RUN, 0)


def test_a_name_of_two_classes_is_refused_and_their_numbers_are_not():
    run = SimpleNamespace(class_names=("cat", "cafe\u0301", "caf\u00e9", " cat"), counts=torch.tensor([4, 3, 2, 1]))
    with pytest.raises(CbdmError, match=r"'cat' is the name of the classes 0 and 3: give the number of one$"):
        labels_of("1,cat", None, run, 0)
    with pytest.raises(CbdmError, match="the classes 1 and 2"):
        labels_of("caf\u00e9", None, run, 0)
    assert labels_of("3,1", None, run, 0).tolist() == [3, 1]


def test_an_empty_text_is_no_option_left_out():
    nothing = {"omega": None, "guidance_prior": None}
    assert sample_request("", (), None, None, nothing, {}, unconditional=False).labels == ""
    assert sample_request(None, (), None, "", nothing, {}, unconditional=True).prior == ""
    left_out = sample_request(None, (), None, None, nothing, {}, unconditional=True)
    assert (left_out.labels, left_out.prior) == ("cyclic", "uniform")
