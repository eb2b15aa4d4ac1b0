"""The sentences, the maps as text and the picture of diagnoses whose fault is written into them."""

import math
import re

import pytest
import torch

from cbdm_cli.diagnosis_map import draw_diagnosis
from cbdm_cli.diagnosis_words import heat_maps, span, verdict
from cbdm_core.metrics.diagnosis import Contrast, Diagnosis

NAMES = ("rare", "common", "middle")


def diagnosis(under=(1.0, 1.0, 1.0, 4.0), memory=(1.0, 5.0, 2.0, 1.0), head=1.0, folds=0):
    """The tail has these ratios, other classes `head`; errors are of 1 and differences known to 0.01."""

    def contrast(tail):
        error = torch.full((3, 4), head).double()
        error[0] = torch.tensor(tail)
        return Contrast(error, torch.ones(3, 4).double(), torch.full((3, 4), 0.01).double())

    times = torch.tensor([0.1, 0.3, 0.5, 0.7]).double()
    number = torch.tensor([[1.0, 1.5, 2.0, 3.0], [1.0, 40.0, 99.0, 100.0], [1.0, 5.0, 9.0, 10.0]]).double()
    counts = torch.tensor([3, 100, 10])
    return Diagnosis(times, torch.ones(4), counts, counts, contrast(under), contrast(memory), number, folds)


def test_the_sentences_name_where_and_how_much():
    first, second = verdict(diagnosis())
    assert first.startswith("the tail is underfitted at t = 0.70: 4.0 times") and first.endswith("the head there 1.00")
    assert "memorised at t = 0.30–0.50: held-out error up to 5.0 times" in second and "at t = 0.30;" in second


def test_a_fault_of_the_head_too_is_no_matter_of_rarity():
    assert "no matter of rarity" in verdict(diagnosis(head=3.5))[0]
    assert "no matter of rarity" not in verdict(diagnosis(head=3.0))[0]


def test_nothing_beyond_chance_is_said_so():
    first, second = verdict(diagnosis(under=(1.0, 1.015, 0.5, 1.05), memory=(1.0,) * 4))
    assert "underfitted nowhere" in first and "memorised nowhere" in second


def test_folds_say_at_least_and_nothing_of_memory():
    first, second = verdict(diagnosis(folds=5))
    assert "at least 4.0 times" in first and "not known" in second


@pytest.mark.parametrize(
    ("where", "text"),
    [((1, 1, 0, 1), "0.10–0.30, 0.70"), ((0, 0, 1, 0), "0.50"), ((1, 1, 1, 1), "0.10–0.70"), ((0, 0, 0, 0), "")],
)
def test_neighbours_are_joined(where, text):
    assert span(torch.tensor([0.1, 0.3, 0.5, 0.7]), torch.tensor(where).bool()) == text


def test_maps_have_the_commonest_first_and_shades_of_the_logarithm():
    under, memory, number = heat_maps(diagnosis(), NAMES)
    assert [left for left, _ in under[2]] == [("common", "100"), ("middle", "10"), ("rare", "3")]
    assert memory[2][2][1] == [
        ("1.0", 0.0, False),
        ("5.0", pytest.approx(math.log(5, 8)), True),
        ("2.0", pytest.approx(1 / 3), True),
        ("1.0", 0.0, False),
    ]
    assert number[2][0][1][1] == ("40", pytest.approx(-0.6), False)
    assert len(list(heat_maps(diagnosis(folds=2), NAMES))) == 2


def test_the_picture_holds_every_number_and_is_the_same_again(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw_diagnosis(tmp_path / name, diagnosis(), NAMES, "my run")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    shown = re.findall(r">([^<>]+)</text>", text)
    for word in ("my run", "underfitted", "memorised", "effective number", "rare  n=3", "5.0", "99"):
        assert word in shown
    draw_diagnosis(tmp_path / "c.svg", diagnosis(folds=2), NAMES, "my run")
    assert ">memorised<" not in (tmp_path / "c.svg").read_text()
