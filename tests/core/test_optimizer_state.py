"""A state of an optimiser is used only where it fits the parameters in every shape, type and name."""

import copy
import math

import pytest
import torch

from cbdm_core.errors import CbdmError
from cbdm_core.optimizer_state import load_optimizer, load_scaler


def optimizer(steps=2):
    parameters = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))]
    made = torch.optim.AdamW(parameters, lr=0.1, fused=True)
    for _ in range(steps):
        for p in parameters:
            p.grad = p.detach().clone()
        made.step()
    return made


def entry(place, name, value):
    def change(saved):
        saved["state"][place][name] = value

    return change


def without(place, name):
    def change(saved):
        del saved["state"][place][name]

    return change


WRONG = {
    "a moment of another shape": (entry(0, "exp_avg", torch.ones(2, 3)), "exp_avg is torch.float32 of shape"),
    "a moment too small": (entry(1, "exp_avg_sq", torch.ones(1)), "it must be torch.float32 of shape"),
    "a moment of another type": (entry(0, "exp_avg", torch.ones(3, 2).double()), "float64"),
    "a sparse moment": (entry(0, "exp_avg", torch.ones(3, 2).to_sparse()), "no dense tensor"),
    "a number for a moment": (entry(0, "exp_avg", 1.0), "no dense tensor"),
    "steps as a vector": (entry(0, "step", torch.ones(5)), "step is"),
    "a step that is none": (entry(0, "step", torch.tensor(math.nan)), "step is nan"),
    "a name too few": (without(0, "exp_avg"), "its entries are"),
    "a name too many": (entry(1, "max_exp_avg_sq", torch.ones(4)), "its entries are"),
    "an entry that is no table": (lambda saved: saved["state"].update({0: 3}), "its entries are"),
    "a parameter too few": (lambda saved: saved["state"].pop(1), "1 entries for 2 parameters"),
    "another place": (lambda saved: saved["state"].update({7: saved["state"].pop(1)}), "2 entries for 2 parameters"),
    "other groups": (lambda saved: saved["param_groups"][0].update(params=[0]), "grouped in another way"),
    "groups that are none": (lambda saved: saved.update(param_groups=[3]), "grouped in another way"),
    "no state": (lambda saved: saved.pop("state"), "no optimiser state"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_and_nothing_changes(name):
    change, words = WRONG[name]
    made, saved = optimizer(), copy.deepcopy(optimizer().state_dict())
    change(saved)
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(CbdmError, match="not this run's optimiser state") as error:
        load_optimizer(made, saved, "optimizer.pt")
    assert words in str(error.value) and "\n" not in str(error.value)
    after = made.state_dict()
    assert all(torch.equal(after["state"][i][k], v) for i, e in before["state"].items() for k, v in e.items())


def test_a_state_is_taken_and_its_settings_are_not():
    """The next step is that of the optimiser it came from; a rate or a flag of the file changes nothing."""
    made, other = optimizer(0), optimizer(2)
    saved = copy.deepcopy(other.state_dict())
    saved["param_groups"][0].update(lr=math.inf, fused=None, weight_decay=1e9)
    with torch.no_grad():
        for mine, theirs in zip(made.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            mine.copy_(theirs)
    load_optimizer(made, saved, "optimizer.pt")
    for one in (made, other):
        for p in one.param_groups[0]["params"]:
            p.grad = torch.full_like(p, 0.5)
        one.step()
    for mine, theirs in zip(made.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("saved", [None, 3, {"scale": -1.0}, {"scale": "x"}, {"scale": math.inf}])
def test_a_scaler_takes_numbers_only(saved):
    with pytest.raises(CbdmError, match="loss scaler"):
        load_scaler(torch.amp.GradScaler("cpu", enabled=False), saved, "optimizer.pt")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
    ],
)
def test_each_optimiser_takes_its_own_state_and_no_others(make):
    def stepped():
        parameters = [torch.nn.Parameter(torch.ones(3, 2))]
        made = make(parameters)
        parameters[0].grad = torch.ones(3, 2)
        made.step()
        return made

    load_optimizer(stepped(), copy.deepcopy(stepped().state_dict()), "optimizer.pt")
    theirs = optimizer(1).state_dict()["state"][0]
    other = stepped()
    saved = {**other.state_dict(), "state": {0: theirs}}
    with pytest.raises(CbdmError, match="its entries are"):
        load_optimizer(other, saved, "optimizer.pt")
