"""Networks written elsewhere, as score networks: any module, and two models of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cbdm_core.conditions import Classes, Condition, ConditionSpace, MultiLabel, Tokens, as_space, class_count
from cbdm_core.errors import CbdmError, check_positive, unknown_name
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.networks.layers import check_batch

__all__ = ["Adapter", "from_diffusers"]

Call = Callable[[Any, Tensor, Tensor, Condition], Tensor]


class Adapter(ScoreNetwork):
    """Any module as a score network: ε̂ = call(module, x_t, t, c).

    The values of null rows are zeros when `call` sees them, so that what is hidden has no influence; it still has to
    tell the null apart, by `c.present`.

    Args:
        module: holds the parameters; trained, averaged and saved as `module.…`.
        call: (module, x_t, t, c) → ε̂ of the shape of x_t, t (B,) in [0, 1]; a function of the module's file rather
            than a lambda where the network is to be pickled.
        shape: of one example.
        condition: K ≥ 1 classes, or another space.
        features: the submodule, by its name in `module.named_modules()`, whose output is pooled for `with_features`:
            (B, D) is taken as it is, (B, N, D) are tokens and are averaged over N, and of (B, D, *spatial) with two
            spatial axes or more these are averaged. None has no features.

    Attributes:
        condition: the space.
        num_classes: K, or None where the condition is no class.

    Raises:
        CbdmError: a submodule that is not there, or no space of conditions.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        shape: Sequence[int],
        condition: int | ConditionSpace,
        *,
        features: str | None = None,
    ) -> None:
        super().__init__()
        names = [name for name, _ in module.named_modules() if name]
        if features is not None and features not in names:
            raise unknown_name("submodule", features, names)
        self.module, self.call, self.features = module, call, features
        self.shape, self.condition = tuple(shape), as_space(condition)
        self.num_classes = class_count(self.condition)

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε̂ of the shape of `x_t`.

        Raises:
            CbdmError: a shape that is not this network's, a condition outside its space, or a call that returns
                something else than ε̂.
        """
        check_batch(self.shape, x_t, t, c)
        eps_hat = self.call(self.module, x_t, t, replace(c, value=self.condition.shown(c)))
        if not isinstance(eps_hat, Tensor) or eps_hat.shape != x_t.shape:
            found = tuple(eps_hat.shape) if isinstance(eps_hat, Tensor) else type(eps_hat).__name__
            raise CbdmError(
                f"the call of an adapter must return eps_hat of the shape {tuple(x_t.shape)} of x_t, got {found}: "
                "take the tensor out, or its first channels"
            )
        return eps_hat

    def with_features(self, x_t: Tensor, t: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """(ε̂, z), z (B, D) the pooled output of the submodule `features`, of its last call if there are several.

        Raises:
            CbdmError: no `features` were named, or the submodule was not called or returned no tensor.
        """
        if self.features is None:
            raise CbdmError(
                "this adapter has no features: name the submodule that gives them, Adapter(..., features = 'name')"
            )
        outputs: list[Any] = []
        hook = self.module.get_submodule(self.features).register_forward_hook(lambda m, i, out: outputs.append(out))
        try:
            eps_hat = self(x_t, t, c)
        finally:
            hook.remove()
        if not outputs:
            raise CbdmError(f"the submodule {self.features!r} was not called: name one that the forward pass calls")
        return eps_hat, _pooled(outputs[-1], self.features)

    @cached_property
    def num_features(self) -> int:
        """D of `with_features`, read off the features of one null row in eval mode."""
        like = next(self.module.parameters(), torch.zeros(()))
        x_t, t = torch.zeros(1, *self.shape, dtype=like.dtype, device=like.device), torch.ones(1, device=like.device)
        value = _some_value(self.condition, like.dtype).to(like.device)
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                return self.with_features(x_t, t, Condition.of(value).null())[1].shape[1]
        finally:
            for module, training in modes.items():
                module.training = training


def _pooled(output: Any, name: str) -> Tensor:
    """(B, D) of (B, D), (B, N, D) or (B, D, *spatial)."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim < 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise CbdmError(
            f"the submodule {name!r} returns {found}, and features are pooled from (B, D), (B, N, D) or "
            "(B, D, *spatial): name another"
        )
    if output.ndim == 3:
        return output.mean(1)
    return output.flatten(2).mean(2) if output.ndim > 3 else output


def _some_value(space: ConditionSpace, dtype: torch.dtype) -> Tensor:
    """(1, …) zeros that are a condition of the space."""
    if isinstance(space, Classes):
        return torch.zeros(1, dtype=torch.long)
    if isinstance(space, Tokens):
        return torch.zeros(1, space.length, dtype=torch.long)
    return torch.zeros(1, space.size, dtype=torch.long if isinstance(space, MultiLabel) else dtype)


@dataclass(frozen=True)
class _DiffusersCall:
    """model(x_t, i, class_labels = y).sample with i = round(tT) − 1 and y = K where the label is not present."""

    time_steps: int
    null: int

    def __call__(self, model: Any, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        if c.augment is not None:
            raise CbdmError("a model of diffusers takes no augmentation vector: give conditions without one")
        i = ((t * self.time_steps).round() - 1).clamp(min=0).long()
        label = torch.where(c.present, c.value, self.null)
        output = model(x_t, i, class_labels=label).sample
        return output[:, : x_t.shape[1]]  # the others are a learned variance


def from_diffusers(model: nn.Module, num_classes: int | None = None, *, time_steps: int = 1000) -> Adapter:
    """A class-conditional model of diffusers as a score network, with the last of its K + 1 label rows as the null.

    Its inputs are i = round(tT) − 1 (0 at the least) and the label. Of a model with 2C output channels (a learned
    variance) the first C are ε̂. A DiT's own label dropout is switched off, on the model given: `drop_condition` hides
    labels. Features are the output of the U-Net's middle, or of the last block of the DiT.

    Args:
        model: a `UNet2DModel` built with num_class_embeds = K + 1, or a `DiTTransformer2DModel` built with
            num_embeds_ada_norm = K.
        num_classes: K; None reads it off the model.
        time_steps: T ≥ 1 of the table that the model is, or was, trained on.

    Raises:
        CbdmError: diffusers is not installed, another model, one without a label embedding of K + 1 rows, or of an
            unfit time embedding or shape.

    Needs: the extra `cbdm[diffusers]`.
    Source: the models' own documentation, of diffusers 0.42.
    """
    try:
        from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
        from diffusers.models.unets.unet_2d import UNet2DModel
    except ImportError as error:
        raise CbdmError(f"from_diffusers needs diffusers ({error}): pip install 'cbdm[diffusers]'") from error
    check_positive(time_steps=time_steps)
    if isinstance(model, UNet2DModel):
        rows, features = _unet_rows(model, time_steps), "mid_block" if model.mid_block is not None else None
    elif isinstance(model, DiTTransformer2DModel):
        rows, features = _dit_rows(model), f"transformer_blocks.{len(model.transformer_blocks) - 1}"
    else:
        raise CbdmError(
            f"from_diffusers knows UNet2DModel and DiTTransformer2DModel, got {type(model).__name__}: "
            "use Adapter with a call of your own"
        )
    classes = rows - 1 if num_classes is None else num_classes
    if classes != rows - 1:
        raise CbdmError(f"{classes} classes and a null need {classes + 1} label rows, and the model has {rows}")
    call = _DiffusersCall(time_steps, classes)
    return Adapter(model, call, _shape(model.config), classes, features=features)


def _unet_rows(model: Any, time_steps: int) -> int:
    """The rows of a U-Net's label table."""
    config = model.config
    if not isinstance(model.class_embedding, nn.Embedding):
        raise CbdmError(
            "this UNet2DModel has no table of labels: build it with num_class_embeds = K + 1 (row K is the null) "
            "and class_embed_type = None"
        )
    if config.time_embedding_type == "fourier":
        raise CbdmError("this UNet2DModel embeds σ, not the step: build it with time_embedding_type = 'positional'")
    if config.time_embedding_type == "learned" and config.num_train_timesteps < time_steps:
        raise CbdmError(
            f"this UNet2DModel has {config.num_train_timesteps} learned times, fewer than time_steps = {time_steps}: "
            f"give time_steps = {config.num_train_timesteps}"
        )
    return model.class_embedding.num_embeddings


def _dit_rows(model: Any) -> int:
    """The rows of a DiT's label tables (each block has one); its label dropout is switched off."""
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.num_embeddings


def _shape(config: Any) -> tuple[int, ...]:
    """(C, H, W) of the model's examples."""
    channels, size = config.in_channels, config.sample_size
    if size is None:
        raise CbdmError("the model does not say how large its images are: build it with sample_size")
    if config.out_channels not in (None, channels, 2 * channels):
        raise CbdmError(
            f"the model turns {channels} channels into {config.out_channels}, and ε̂ has as many as x_t: "
            f"build it with out_channels = {channels}"
        )
    return channels, *((size, size) if isinstance(size, int) else size)
