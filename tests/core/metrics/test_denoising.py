"""Errors whose values are known: of the best denoiser of a Gaussian, of one that recites, and of a loop."""

import pytest
import torch

from cbdm_core.conditions import Condition
from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.denoising import denoising_errors
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import VP, Linear

TIMES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


def drawn(oracle, counts, seed=0):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = oracle.sample(Condition.of(y), draws=Draws(seed, 0, torch.arange(len(y))))
    return Dataset(x.float(), y, tuple("abc"[: len(counts)]))


def oracle(schedule):
    covariances = torch.diag_embed(torch.tensor([[1.0, 0.04], [0.25, 0.25]]))
    return GaussianMixtureOracle(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), covariances, torch.ones(2), schedule)


@pytest.mark.parametrize("schedule", [VP(), Linear()])
def test_the_best_denoiser_has_the_posterior_variance(schedule):
    """E‖x̂_0 − x_0‖² = Σ_d s_d σ²/(α² s_d + σ²) for variances s_d, within 5 standard errors of 4,000 images."""
    exact = oracle(schedule)
    data = drawn(exact, (4000, 4000))
    found = denoising_errors(
        lambda x_t, t, rows: exact(x_t, t, Condition.of(data.y[rows])), data, schedule, TIMES, queries=4000
    )
    mean, error = found.by_class()
    alpha, sigma = schedule(TIMES)
    for c, s in enumerate(exact.covariances.diagonal(dim1=1, dim2=2)):
        known = (s * (sigma**2)[:, None] / ((alpha**2)[:, None] * s + (sigma**2)[:, None])).sum(1)
        assert torch.all((mean[c] * found.x_0_factor - known).abs() < 5 * error[c] * found.x_0_factor)
        assert torch.all(error[c] < 0.05 * mean[c])
    assert torch.allclose(found.x_0.mean(1), found.eps.mean(1) * (sigma / alpha) ** 2)


def test_against_a_loop():
    """Zero as the answer leaves ‖ε‖², whose noise is that of `Draws`; images in turn, and batches change nothing."""
    data = Dataset(torch.arange(10.0).reshape(5, 2), torch.tensor([1, 0, 1, 1, 1]), ("a", "b", "c"))
    found = denoising_errors(lambda x_t, t, rows: torch.zeros_like(x_t), data, VP(), TIMES, queries=6, batch_size=5)
    assert found.y.tolist() == [0] * 6 + [1] * 6
    assert found.image[:6].tolist() == [1] * 6
    assert sorted(found.image[6:10].tolist()) == [0, 2, 3, 4] and torch.equal(found.image[6:8], found.image[10:])
    noise = Draws(0, 0, torch.arange(12)).within("denoising error").normal("eps", 2)
    assert torch.allclose(found.eps, noise.double().square().sum(1).expand(3, 12))
    mean, error = found.by_class()
    per_image = [noise[6:][found.image[6:] == i].double().square().sum(1).mean() for i in (0, 2, 3, 4)]
    assert mean[1, 0] == pytest.approx(float(torch.stack(per_image).mean()))
    assert error[1, 0] == pytest.approx(float(torch.stack(per_image).std() / 2))
    assert error[0].isnan().all() and mean[2].isnan().all()


def test_the_input_is_the_noised_image():
    """A denoiser that knows x_0 gets ε back without error, on images as bytes too."""
    images = torch.randint(0, 256, (6, 1, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data, schedule = Dataset(images, torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b")), VP()

    def known(x_t, t, rows):
        alpha, sigma = (part[:, None, None, None] for part in schedule(t))
        return (x_t - alpha * data.model_input(rows)) / sigma

    assert float(denoising_errors(known, data, schedule, TIMES, queries=4).eps.max()) < 1e-8


def test_the_noise_is_the_same_for_other_images_and_denoisers():
    asked = []

    def listen(x_t, t, rows):
        asked.append(x_t)
        return torch.zeros_like(x_t)

    one, other = (
        Dataset(torch.full((n, 2), value), torch.zeros(n).long(), ("a",)) for n, value in ((3, 1.0), (7, 2.0))
    )
    errors = [denoising_errors(listen, data, VP(), TIMES[:1], queries=5) for data in (one, other)]
    alpha, _ = VP()(TIMES[:1])
    assert torch.allclose(asked[1] - asked[0], torch.full((5, 2), float(alpha)), atol=1e-6)
    assert torch.equal(errors[0].minus(errors[0]).eps, torch.zeros(1, 5).double())


def test_refused():
    data = Dataset(torch.zeros(2, 2), torch.tensor([0, 0]), ("a",))
    for change, words in (
        ({"queries": 0}, "queries = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"times": torch.tensor([1.5])}, "time 1.5 is outside"),
    ):
        given = {"times": TIMES, **change}
        with pytest.raises(CbdmError, match=words):
            denoising_errors(lambda x_t, t, rows: x_t, data, VP(), given.pop("times"), **given)
