"""A run as a pipeline of diffusers: what `cbdm export --to diffusers` writes, and reading it back needs this package.

It needs the extra `cbdm[diffusers]` too, so nothing imports this module at its top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from cbdm_core.conditions import Condition, space_from_dict
from cbdm_core.data.units import Units
from cbdm_core.draws import Draws
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.networks.interop import VarianceKept, alphas_bar, table_length
from cbdm_core.run import Run, build_network, build_schedule

__all__ = ["CbdmModel", "CbdmOutput", "CbdmPipeline", "as_pipeline"]


class CbdmModel(ModelMixin, ConfigMixin):
    """The network of a run, made from its configuration.

    Args:
        network: the configuration's `network` table.
        schedule: its `schedule` table.
        shape: of one example.
        condition: the space of the conditions.
        class_names: names of the classes or regions.
        units: of floats, `Units.to_dict()`; None for images.
    """

    @register_to_config
    def __init__(
        self,
        network: dict[str, Any],
        schedule: dict[str, Any],
        shape: Sequence[int],
        condition: dict[str, Any],
        class_names: Sequence[str],
        units: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.units = None if units is None else Units.of_dict(units)
        self.noise = build_schedule(schedule)
        self.denoiser = build_network(network, tuple(shape), space_from_dict(condition), self.noise)

    def forward(self, sample: Tensor, timestep: Tensor | int, condition: Condition, omega: float = 0.0) -> Tensor:
        """ε̂, guided by ω."""
        network = ClassifierFreeGuidance(self.denoiser, omega)
        return VarianceKept(network, self.noise, table_length(self.noise))(sample, timestep, condition)


@dataclass
class CbdmOutput(BaseOutput):
    """What the pipeline returns: `images`, (B, …) samples, images in [−1, 1] and floats in their own units."""

    images: Tensor


class CbdmPipeline(DiffusionPipeline):
    """Draw samples with a scheduler of diffusers, DDIM as it comes.

    Args:
        model: the network.
        scheduler: any of DDPM's family with `timestep_spacing="trailing"`.
    """

    model_cpu_offload_seq = "model"

    def __init__(self, model: CbdmModel, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        conditions: Tensor | Sequence[int],
        *,
        num_inference_steps: int = 50,
        omega: float = 0.0,
        seed: int = 0,
        eta: float | None = None,
        generator: torch.Generator | None = None,
    ) -> CbdmOutput:
        """Samples, one for each condition; sample i starts from the noise of (seed, i), as `cbdm sample` does.

        Args:
            conditions: (B, …) labels, or vectors.
            num_inference_steps: a divisor of the T of the scheduler gives the times of `cbdm sample`.
            omega: ω of guidance; 0 is plain conditional.
            seed: of the noise.
            eta: of a scheduler that takes it, as DDIM's does; its noise comes from `generator`.
            generator: of a scheduler that draws noise.
        """
        model, scheduler = self.model, self.scheduler
        c = Condition.of(torch.as_tensor(conditions).to(self.device))
        draws = Draws(seed, 0, torch.arange(len(c), device=self.device), "sampling/")
        x = draws.normal("x_T", *model.config.shape, dtype=model.dtype) * scheduler.init_noise_sigma
        scheduler.set_timesteps(num_inference_steps, device=self.device)
        options = {"eta": eta, "generator": generator}
        options = {name: value for name, value in options.items() if value is not None}
        bar: Any = self.progress_bar  # a property of another kind, to the type checker
        for i in bar(scheduler.timesteps):
            eps_hat = model(scheduler.scale_model_input(x, i), i, c, omega)
            x = scheduler.step(eps_hat, i, x, **options).prev_sample
        return CbdmOutput(images=x if model.units is None else model.units.from_model(x))


def as_pipeline(run: Run) -> CbdmPipeline:
    """The pipeline of a run, its averaged network with a DDIM scheduler, which `save_pretrained` writes."""
    config, facts = run.config, run.config["facts"]
    condition = facts.get("condition") or {"kind": "classes", "size": len(run.counts)}
    names, units = list(run.class_names), run.units and run.units.to_dict()
    model = CbdmModel(config["network"], config["schedule"], list(run.shape), condition, names, units)
    model.denoiser.load_state_dict(run.network.state_dict())
    table = alphas_bar(run.schedule, table_length(run.schedule))
    betas = 1 - table / torch.cat([table.new_ones(1), table[:-1]])
    scheduler = DDIMScheduler(
        num_train_timesteps=len(betas),
        trained_betas=betas.tolist(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    return CbdmPipeline(model.eval(), scheduler)
