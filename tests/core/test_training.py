"""The training loop: what a step does; that several processes do the same as one stands in test_distributed.py."""

import pytest
import torch

from cbdm import (
    Batches,
    ClassBalancing,
    Dataset,
    DenoisingLoss,
    Objective,
    Process,
    ScoreNetwork,
    Training,
    TrainSettings,
    TrainState,
    load_checkpoint,
    save_checkpoint,
    train,
)
from cbdm_core.errors import CbdmError
from cbdm_core.networks.mlp import MLP
from cbdm_core.optimisers import OPTIMISERS
from cbdm_core.schedules import Cosine
from cbdm_core.training import DivergedError, learning_rate


def vectors(n=40):
    x = torch.arange(2 * n, dtype=torch.float32).reshape(n, 2) / n - 1
    return Dataset(x, torch.arange(n) % 4, tuple("abcd"))


def fresh(data, settings=TrainSettings(learning_rate=1e-2, ema_decay=0.9), world=None):
    torch.manual_seed(0)
    network = MLP(data.shape, data.num_classes, width=16, depth=1)
    adjustment = ClassBalancing(DenoisingLoss(), Training(data.counts()))
    return TrainState.start(Objective(Process(Cosine()), network, adjustment, drop=0.1), settings, world)


def test_training_lowers_the_loss_and_reports_groups():
    data = vectors()
    state = fresh(data)
    member = torch.tensor([0, 0, 1, 1])
    records = list(train(state, Batches(data, 20, seed=0), steps=300, groups=member, group_names=("head", "tail")))
    first, last = (sum(r.terms["denoising"] for r in part) / 50 for part in (records[:50], records[-50:]))
    assert last < 0.7 * first
    assert set(records[0].groups) == {"head", "tail"}
    assert records[0].loss == pytest.approx(sum(records[0].terms.values()), rel=1e-6)


def test_group_losses_average_to_the_whole():
    data = vectors()
    member = torch.tensor([0, 1, 1, 1])
    for record in train(fresh(data), Batches(data, 20, seed=0), steps=3, groups=member, group_names=("a", "b")):
        # 20 rows in label order 0, 1, 2, 3 of a shuffled epoch: weigh by the rows each group has
        y = Batches(data, 20, seed=0).at(record.step - 1)[1]
        share = (member[y] == 0).double().mean()
        mixed = share * record.groups["a"] + (1 - share) * record.groups["b"]
        assert record.terms["denoising"] == pytest.approx(float(mixed), rel=1e-5)


def test_the_learning_rate_warms_up_linearly():
    settings = TrainSettings(learning_rate=0.4, warmup=4)
    assert [learning_rate(settings, i) for i in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_the_averaged_weights_follow_their_recursion():
    data = vectors()
    state = fresh(data)
    expected = [p.detach().clone().double() for p in state.objective.network.parameters()]
    for record in train(state, Batches(data, 8, seed=0), steps=5):
        decay = min(0.9, (1 + record.step) / (10 + record.step))
        live = state.objective.network.parameters()
        expected = [decay * e + (1 - decay) * p.detach().double() for e, p in zip(expected, live, strict=True)]
    for mean, e in zip(state.ema.parameters(), expected, strict=True):
        assert not mean.requires_grad and mean.grad_fn is None
        torch.testing.assert_close(mean.double(), e, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frozen", ["all", "part"])
def test_a_network_all_of_which_is_frozen_is_thawed(frozen):
    """As `load_run` gives it; one that is frozen in part keeps that part."""
    data = vectors()
    network = MLP(data.shape, data.num_classes, width=16, depth=1)
    weights = list(network.parameters())
    for weight in weights if frozen == "all" else weights[:2]:
        weight.requires_grad_(False)
    before = [weight.detach().clone() for weight in weights]
    objective = Objective(Process(Cosine()), network, DenoisingLoss(), drop=0.5)
    list(train(TrainState.start(objective, TrainSettings(learning_rate=1e-2)), Batches(data, 20, seed=0), steps=3))
    moved = [not torch.equal(old, new) for old, new in zip(before, weights, strict=True)]
    assert moved == [frozen == "all"] * 2 + [True] * (len(weights) - 2)


def test_the_gradient_is_clipped():
    data = vectors()
    state = fresh(data, TrainSettings(learning_rate=1e-3, clip=1e-3))
    record = next(train(state, Batches(data, 8, seed=0), steps=1))
    norm = torch.stack([p.grad.norm() for p in state.objective.parameters()]).norm()
    assert record.grad_norm > 1e-2 and float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_step_starts_dropout_from_a_known_place():
    """What ran before in the process does not show in a step."""
    data = vectors()
    torch.manual_seed(0)
    results = []
    for disturb in (False, True):
        state = fresh(data)
        steps = train(state, Batches(data, 8, seed=0), steps=3)
        losses = []
        for record in steps:
            losses.append(record.loss)
            if disturb:
                torch.rand(7)
        results.append(losses)
    assert results[0] == results[1]


class _Broken(ScoreNetwork):
    def __init__(self, bad):
        super().__init__()
        self.w, self.bad = torch.nn.Parameter(torch.zeros(())), bad

    def forward(self, x_t, t, c):
        return x_t * self.w + torch.where(self.w < 0, torch.nan, 0.0) if self.bad else x_t * torch.sqrt(self.w)


@pytest.mark.parametrize("bad", [True, False])
def test_what_is_not_finite_stops_before_the_weights_change(bad):
    data = vectors()
    network = _Broken(bad)
    with torch.no_grad():
        network.w -= 1.0 if bad else 0.0  # a NaN loss, or a finite loss whose gradient is infinite
    state = TrainState.start(Objective(Process(Cosine()), network, DenoisingLoss()), TrainSettings())
    before = float(network.w.detach())
    with pytest.raises(DivergedError, match=r"at step 1, batch labels \[") as caught:
        next(train(state, Batches(data, 8, seed=0), steps=1))
    assert len(caught.value.labels) == 8 and state.step == 0 and float(network.w.detach()) == before


@pytest.mark.parametrize("options", [{"precision": "fp8"}, {"learning_rate": 0}, {"ema_decay": 1.0}, {"clip": 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(CbdmError):
        TrainSettings(**options)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains(precision):
    if precision == "fp16" and not torch.cuda.is_available():
        pytest.skip("half precision is trained on GPUs")
    data = vectors()
    state = fresh(data, TrainSettings(learning_rate=1e-2, precision=precision))
    losses = [r.terms["denoising"] for r in train(state, Batches(data, 20, seed=0), steps=120)]
    assert sum(losses[-20:]) < sum(losses[:20])
    assert next(state.objective.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_checkpoint_holds_what_each_optimiser_and_average_needs(tmp_path, name):
    data = vectors()
    settings = TrainSettings(learning_rate=1e-2, optimiser=OPTIMISERS[name], averages=("power:0.1", "decay:0.5"))
    batches, whole, cut = Batches(data, 8, seed=0), fresh(data, settings), fresh(data, settings)
    for _ in train(whole, batches, steps=6):
        pass
    for _ in train(cut, batches, steps=3):
        pass
    again = load_checkpoint(save_checkpoint(tmp_path, cut), fresh(data, settings))
    for _ in train(again, batches, steps=6):
        pass
    for part in ("objective", "ema", "averages"):
        one, other = (getattr(state, part).state_dict() for state in (whole, again))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), part
