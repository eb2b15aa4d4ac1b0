"""From the text of a batch law to the law at each noise level, in training and in what guidance is told."""

import pytest
import torch

from cbdm_cli.assemble import assemble
from cbdm_cli.batches import drawn_law, level_share
from cbdm_cli.config import validated
from cbdm_cli.method import method_parts
from cbdm_cli.overlay import load_config
from cbdm_core.data.levels import ExposureBudget, Ramp
from cbdm_core.errors import CbdmError


def experiment(method, **options):
    table = load_config("digits-lt", None, ())
    parts = method_parts({"parts": method, "options": options})
    return assemble(validated({**table, "method": parts}))


@pytest.mark.parametrize(
    ("text", "ends"), [("0.2", (0.2, 0.2)), ("0.3-0.7", (0.3, 0.7)), ("0-1", (0.0, 1.0)), ("0.7-0.3", (0.7, 0.3))]
)
def test_levels_are_a_split_or_a_ramp(text, ends):
    share = level_share(text)
    assert isinstance(share, Ramp) and (share.start, share.full) == ends


def test_the_law_that_guidance_reads_is_the_batches():
    """Split at 0.2: the training law below, the square-root law from there on."""
    config = experiment("resample:power:0.5@0.2").config
    counts = torch.tensor(config.facts.counts).double()
    law = drawn_law(config)
    torch.testing.assert_close(law(0.1).probs, counts / counts.sum())
    torch.testing.assert_close(law(0.5).probs, counts.sqrt() / counts.sqrt().sum())
    assert drawn_law(experiment("resample:uniform").config) is None and drawn_law(experiment("ddpm").config) is None


def test_a_budget_is_written_down_and_read_again():
    """At the end of training the rarest class is past its budget at low noise and within it at high."""
    made = experiment("transplant+resample:uniform@auto")
    levels, config = made.batches.levels, made.config
    assert isinstance(levels, ExposureBudget)
    counts = torch.tensor(config.facts.counts).double()
    torch.testing.assert_close(levels.rate, 64 * 0.1 / counts)
    assert torch.equal(torch.tensor(config.facts.budget.showings, dtype=torch.float64), levels.budget)
    law, shown = drawn_law(config), config.training.steps * levels.rate
    for t in (0.1, 0.3, 0.6, 1.0):
        within = shown < levels.share(torch.full((10,), t), torch.arange(10), config.training.steps) * float("inf")
        expected = torch.where(within, 0.1, 0.0).double()
        expected += counts / counts.sum() * (1 - expected.sum())
        torch.testing.assert_close(law(t).probs, expected)
    assert law(0.1).probs[9] < 0.05 < law(0.9).probs[9]


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("resample:uniform@2", {}, "noise levels '2'"),
        ("resample:uniform@", {}, "LAW@T0"),
        ("resample:uniform@x", {}, "noise levels 'x'"),
        ("resample:uniform@auto=-3", {}, "@auto=N with N > 0"),
        ("cbdm:null@0.2", {}, "only resample reads noise levels"),
        ("reweight:uniform+resample:uniform@0.2", {}, "one law for all levels"),
        ("transplant:uniform", {}, "takes no law"),
        ("transplant", {"transplant": {"rho": 3}}, "rho = 3"),
        ("transplant", {"transplant": {"roh": 3}}, "did you mean 'rho'"),
        ("transplant", {"transplant": {"rho": "much"}}, "transplant"),
        ("resample", {"resample": {"low": 0.1}}, "no options"),
    ],
)
def test_what_means_nothing_is_refused_in_a_line(method, options, named):
    with pytest.raises(CbdmError, match=named) as error:
        experiment(method, **options)
    assert "\n" not in str(error.value)
