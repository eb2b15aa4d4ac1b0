"""The configuration: frozen, strict, and the same thing as its TOML. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cbdm_cli.method import Part, format_parts, method_parts
from cbdm_core.errors import CbdmError, closest
from cbdm_core.metrics.scores import compared_scores
from cbdm_core.reading import clean_text

__all__ = ["Config", "Facts", "Origin", "validated"]


_MOST = 2**53  # whole numbers up to here are exact wherever they are computed with


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(_Section):
    """Where the examples come from and how their long tail is made; augment is the probability of each part."""

    source: str = "digits"
    options: dict[str, Any] = {}
    profile: Literal["exp", "step", "held-out", "none"] = "exp"
    imbalance: Annotated[float, Field(gt=0, le=1)] = 0.02
    n_max: Annotated[int | None, Field(ge=1, le=_MOST)] = None
    counts: tuple[int, ...] | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    flip: bool = False
    augment: Annotated[float, Field(ge=0, le=1)] = 0.0
    augment_parts: tuple[str, ...] = ("flip_x", "flip_y", "scale", "rotate", "stretch", "translate")


class Schedule(_Section):
    """The noise schedule."""

    name: str = "linear"
    options: dict[str, Any] = {}


class Network(_Section):
    """The score network and what it predicts; sigma_data is that of the prediction edm."""

    name: str = "unet"
    predicts: Literal["eps", "x_0", "v", "flow", "edm"] = "eps"
    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    options: dict[str, Any] = {}


class LossWeight(_Section):
    """The factor of the denoising loss."""

    name: str = "constant"
    options: dict[str, Any] = {}


class Optimiser(_Section):
    """The optimiser and its options; learning rate and weight decay stand under [training]."""

    name: str = "adamw"
    options: dict[str, Any] = {}


class LrSchedule(_Section):
    """The course of the learning rate after warm-up; `cosine` is over the steps of the training."""

    name: str = "constant"
    options: dict[str, Any] = {}


class Training(_Section):
    """How the network is optimised, what is averaged, and how the device computes."""

    steps: Annotated[int, Field(ge=1)] = 2400
    batch_size: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0, le=_MOST)] = 100
    clip: Annotated[float, Field(gt=0)] = 1.0
    optimiser: Optimiser = Optimiser()
    lr_schedule: LrSchedule = LrSchedule()
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    averages: tuple[str, ...] = ()
    snapshot_every: Annotated[int, Field(ge=1)] = 1000
    accumulate: Annotated[int, Field(ge=1)] = 1
    checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False
    shard: bool = False
    tf32: bool = True
    determinism: Literal["off", "cudnn", "full"] = "cudnn"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    drop: Annotated[float, Field(ge=0, le=1)] = 0.1
    drop_per: Literal["row", "batch"] = "row"
    loss_weight: LossWeight = LossWeight()
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    keep: Annotated[int, Field(ge=1)] = 2
    log_every: Annotated[int, Field(ge=1)] = 5
    sample_every: Annotated[int | None, Field(ge=1)] = None
    score_every: Annotated[int | None, Field(ge=1)] = None
    score_per_class: Annotated[int, Field(ge=1)] = 20
    keep_best: str | None = None
    fine_tunes: bool = False

    @model_validator(mode="after")
    def _best_by_a_score(self) -> Training:
        if self.keep_best is not None and self.keep_best not in (allowed := _with_a_better_way()):
            raise ValueError(
                f"keep_best: allowed are {', '.join(allowed)}, got {self.keep_best!r}: name one of them, or install "
                "the package whose score it is"
            )
        if self.keep_best is not None and self.score_every is None:
            raise ValueError("keep_best needs score_every, the steps between two scores")
        return self


def _with_a_better_way() -> list[str]:
    """The scores of which it can be said which of two is better."""
    return [name for name, (_, score) in compared_scores().items() if score.less_is_better is not None]


class Tracking(_Section):
    """How class weights are tracked along a path, for guidance_prior and unconditional sampling."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Annotated[int | None, Field(ge=1)] = None
    every: Annotated[int, Field(ge=1)] = 1


class Sampling(_Section):
    """How samples are drawn."""

    sampler: str = "dpm++2m"
    options: dict[str, Any] = {}
    steps: Annotated[int, Field(ge=1)] = 25
    omega: str = "1"
    interval: tuple[float, float] = (0.0, 1.0)
    guidance_prior: str | None = None
    tracking: Tracking = Tracking()
    batch_size: Annotated[int, Field(ge=1)] = 500
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class Evaluation(_Section):
    """How samples are judged: against which set, and bootstrap resamples for intervals, runs of PRD; 0 leaves out."""

    per_class: Annotated[int, Field(ge=1)] = 200
    k: Annotated[int, Field(ge=1)] = 5
    features: str = "classifier"
    reference: Literal["balanced", "held-out", "training"] = "balanced"
    intervals: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    prd_runs: Annotated[int, Field(ge=0, le=10_000)] = 0


class Budget(_Section):
    """Showings of an image that `resample:LAW@auto` allows, (classes, levels), and the noise levels."""

    levels: tuple[float, ...]
    showings: tuple[tuple[float, ...], ...]


class UnitsFact(_Section):
    """The mean and scale of each channel or column of floats: x = mean + scale z, and the network sees z."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Origin(_Section):
    """The weights that a training started from: where they lay, after how many steps, and the hash of their file."""

    path: str
    step: int
    sha256: str


class Facts(_Section):
    """What the data turned out to be; written by the program, checked on resume."""

    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    data_hash: str
    split_hash: str
    laws: dict[str, str]
    condition: dict[str, Any] | None = None
    condition_names: tuple[str, ...] | None = None
    budget: Budget | None = None
    units: UnitsFact | None = None
    origin: Origin | None = None

    @field_validator("class_names", "condition_names")
    @classmethod
    def _plain_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(map(clean_text, names))

    @model_validator(mode="after")
    def _one_name_for_each_count(self) -> Facts:
        if len(self.class_names) != len(self.counts):
            raise ValueError(f"{len(self.class_names)} class_names for {len(self.counts)} counts; restore the file")
        if min(self.counts, default=0) < 0 or min(self.shape, default=1) < 1:
            raise ValueError("counts are 0 or more, and the sizes of shape 1 or more; restore the file")
        return self


class Config(_Section):
    """One experiment."""

    preset: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "digits-lt"  # names the run folder
    question: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: Data = Data()
    schedule: Schedule = Schedule()
    network: Network = Network()
    method: tuple[Part, ...] = (Part(part="cbdm", law="null"),)
    training: Training = Training()
    sampling: Sampling = Sampling()
    evaluation: Evaluation = Evaluation()
    facts: Facts | None = None

    @property
    def method_text(self) -> str:
        """The method as --method takes it, without its options."""
        return format_parts(self.method)

    def to_toml(self) -> str:
        """The configuration as TOML, which `load_config` reads back; values that are None are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def validated(table: Mapping[str, Any]) -> Config:
    """The configuration of plain values.

    Raises:
        CbdmError: an unknown key (the closest match is named) or a value outside its range, in one line.
    """
    try:
        given = {**table, "method": method_parts(table["method"])} if "method" in table else table
        return Config.model_validate(given)
    except ValidationError as error:
        raise CbdmError(_plain(error)) from None


def _plain(error: ValidationError) -> str:
    first = error.errors()[0]
    path = ".".join(str(p) for p in first["loc"])
    if first["type"] == "missing":
        return f"{path} is missing: add it"
    if first["type"] == "extra_forbidden":
        allowed = _keys(first["loc"][:-1])
        near = closest(str(first["loc"][-1]), allowed)
        hint = f" did you mean {near!r}?" if near else ""
        return f"unknown key {path!r}:{hint} allowed: {', '.join(allowed)}"
    if first["type"] == "value_error":
        return f"{path or 'the configuration'}: {first['msg'].removeprefix('Value error, ')}"
    return f"{path} = {_shown(first['input'])}: {_words(first)}"


# What a value must be, where pydantic's own words do not say how to write it.
_KINDS = {
    "string_type": "it must be a text; write it in quotes, such as {key}='abc'",
    "int_type": "it must be a whole number, such as {key}=3",
    "int_parsing": "it must be a whole number, such as {key}=3",
    "int_from_float": "it must be a whole number, such as {key}=3",
    "float_type": "it must be a number, such as {key}=0.5",
    "float_parsing": "it must be a number, such as {key}=0.5",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "tuple_type": "it must be a list, such as {key}=[1, 2]",
    "dict_type": "it must be a table; set what stands in it, {key}.NAME=…",
    "model_type": "it must be a table; set what stands in it, {key}.NAME=…",
    "model_attributes_type": "it must be a table; set what stands in it, {key}.NAME=…",
    "finite_number": "it must be finite, such as {key}=0.5",
    "string_pattern_mismatch": "it must be up to 64 letters, digits, dots and dashes, the first a letter or digit",
}


def _words(error: Any) -> str:
    """What is allowed."""
    if error["type"] in _KINDS:
        key = ".".join(str(p) for p in error["loc"] if not isinstance(p, int))
        return _KINDS[error["type"]].format(key=key)
    return f"{error['msg'][0].lower()}{error['msg'][1:]}"


def _shown(value: Any) -> str:
    """The value, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _keys(path: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for name in path:
        annotation = Part if isinstance(name, int) else model.model_fields[str(name)].annotation
        # `Facts | None` stands for Facts
        kinds = [kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")]
        model = kinds[0] if kinds else _Section
    return sorted(model.model_fields)
