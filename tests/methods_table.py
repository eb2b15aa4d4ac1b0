"""The tables of docs/methods.md, read off the code: `python -m tests.methods_table` writes them anew.

Forward passes are counted: the method is built by the command line's own assembly, one training step is run, and the
network writes down how many rows it was asked and whether a graph was kept.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cbdm import ADJUSTMENTS, PRIORS, AdjustedNull, MixtureScore, TrackedWeights, Training, Uniform
from cbdm_cli.assemble import Experiment, assemble
from cbdm_cli.config import validated
from cbdm_cli.laws import law_takers, law_text
from cbdm_cli.method import BATCH_PARTS, PURE, RESAMPLE, TRANSPLANT, Part, parse_parts
from cbdm_cli.overlay import load_config
from cbdm_core.conditions import Condition
from cbdm_core.data.batches import Batches
from cbdm_core.data.transplant import Transplant
from cbdm_core.draws import Draws
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.samplers import DDIM, Sampler
from cbdm_core.schedules import Cosine

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "methods.md"
COMMAND = "python -m tests.methods_table"
CLASSES = 10
COUNTS = [100, 60, 36, 22, 13, 8, 5, 3, 2, 1]

# Name → what it does, and the test that holds it to truth. All else in the tables is read off the code.
LOSS_PARTS: Mapping[str, tuple[str, str]] = {
    "cbdm": (
        "pulls the predictions under two conditions together",
        "tests/truth/test_true_regulariser.py::test_cbdm_gradient_is_its_closed_form",
    ),
    "shrink": (
        "pulls each class to the law's mean, each with a strength of its own",
        "tests/priors/penalties/test_shrinkage.py::test_training_loss_is_stationary_at_the_closed_form",
    ),
    "reweight": ("weighs each example by π(y)/q(y)", "tests/truth/test_true_laws.py::test_reweighting_is_unbiased"),
    "t2h": (
        "rows learn from images of classes at least as frequent (T2H)",
        "tests/priors/test_transfer.py::test_targets_are_the_published_ones",
    ),
    "h2t": (
        "rows learn from images of classes at most as frequent (H2T)",
        "tests/priors/test_transfer.py::test_targets_are_the_published_ones",
    ),
    "transfer": (
        "rows learn from any image of the batch",
        "tests/priors/test_transfer.py::test_full_transfer_learns_the_posterior_mean_of_the_batch",
    ),
    "coral": (
        "draws inner features of one class together, of different classes apart (CORAL †)",
        "tests/priors/penalties/test_contrast.py::test_supcon_is_its_double_loop",
    ),
    "ccua": (
        "draws each class to the null prediction, null features apart (CCUA †)",
        "tests/priors/penalties/test_contrast.py::test_ccua_is_its_double_loop",
    ),
    "diffrop": (
        "pushes the predictions under two conditions apart (DiffROP)",
        "tests/priors/penalties/test_contrast.py::test_diffrop_pushes_as_cbdm_with_both_halves_pulls",
    ),
    "capacity": (
        "gives the network low-rank experts that rare classes may use more (CM †)",
        "tests/priors/penalties/test_capacity.py::test_the_term_is_its_formula",
    ),
}
BATCHES: Mapping[str, tuple[str, str]] = {
    TRANSPLANT: (
        "rows of rare classes keep their mean and borrow their spread from common ones, at t ≥ t₀",
        "tests/core/data/test_transplant.py::test_mean_and_covariance_are_the_class_mean_and_v_sigma",
    ),
    RESAMPLE: (
        "draws the examples so that their classes follow π, of the noise level too: `resample:uniform@0.2`",
        "tests/core/data/test_batches.py::test_resampled_classes_follow_the_law",
    ),
    PURE: (
        "batches of one class each, the class drawn from π",
        "tests/truth/test_true_draws.py::test_batches_of_one_class_are_unbiased_for_their_law",
    ),
}


@dataclass(frozen=True)
class Sampled:
    """A method of sampling time: its name, command, phrase, test, the classes of its parameters, how to build it."""

    name: str
    command: str
    phrase: str
    test: str
    made_by: tuple[type, ...]
    build: Callable[[Any], tuple[ScoreNetwork, Sampler]]


def _posterior(oracle: GaussianMixtureOracle) -> Callable[..., torch.Tensor]:
    return lambda x_t, t: oracle.class_posterior(x_t, t).log()


def _laws() -> tuple[Uniform, Training]:
    return Uniform(COUNTS), Training(COUNTS)


SAMPLED = (
    Sampled(
        "guidance",
        "`--omega 1`",
        "ε_c + ω(ε_c − ε_∅), for comparison",
        "tests/truth/test_true_guidance.py::test_guidance_is_its_formula",
        (ClassifierFreeGuidance,),
        lambda o: (ClassifierFreeGuidance(o, 1.0), DDIM(o.schedule)),
    ),
    Sampled(
        "`MixtureScore`",
        "Python only",
        "unconditional generation under π, by logit adjustment",
        "tests/priors/sampling/test_posterior.py::test_the_mixture_score_is_that_of_the_mixture_under_the_law",
        (MixtureScore,),
        lambda o: (MixtureScore(o, _posterior(o), *_laws()), DDIM(o.schedule)),
    ),
    Sampled(
        "`AdjustedNull`",
        "Python only",
        "the null prediction as if trained under π",
        "tests/priors/sampling/test_posterior.py::test_the_adjusted_null_is_the_mixture_under_the_law_and_the_nulls_own_error",
        (AdjustedNull,),
        lambda o: (AdjustedNull(o, _posterior(o), *_laws()), DDIM(o.schedule)),
    ),
    Sampled(
        "prior-adjusted guidance",
        "Python only",
        "guidance away from the adjusted null",
        "tests/priors/sampling/test_posterior.py::test_guidance_away_from_the_adjusted_null_is_the_formula",
        (ClassifierFreeGuidance, AdjustedNull),
        lambda o: (ClassifierFreeGuidance(o, 1.0, null=AdjustedNull(o, _posterior(o), *_laws())), DDIM(o.schedule)),
    ),
    Sampled(
        '`TrackedWeights(mode="mixture")`',
        "`cbdm sample RUN --unconditional --prior uniform`",
        "unconditional generation under π; the path itself gives the posterior",
        "tests/priors/sampling/test_tracking.py::test_tracked_weights_are_the_posterior",
        (TrackedWeights,),
        lambda o: (o, TrackedWeights(DDIM(o.schedule), *_laws())),
    ),
    Sampled(
        '`TrackedWeights(mode="null")`',
        "`cbdm sample RUN --guidance-prior uniform`",
        "guidance away from the adjusted null; the path itself gives the posterior",
        "tests/priors/sampling/test_tracking.py::test_each_step_is_the_inner_samplers_with_the_weights_at_hand",
        (TrackedWeights,),
        lambda o: (o, TrackedWeights(DDIM(o.schedule), *_laws(), mode="null", omega=1.0)),
    ),
)


# What is asked of a network


@dataclass(frozen=True)
class Asked:
    """One forward: its rows, whether a graph is kept, whether features were asked for."""

    rows: int
    graph: bool
    features: bool


def watched(network: ScoreNetwork) -> list[Asked]:
    """The forwards that the network is asked for from now on; one inside another is the same forward."""
    asked: list[Asked] = []
    inside = [False]

    def wrap(function: Callable[..., Any], features: bool) -> Callable[..., Any]:
        def asking(x_t: torch.Tensor, t: torch.Tensor, c: Condition) -> Any:
            if inside[0]:
                return function(x_t, t, c)
            asked.append(Asked(len(x_t), torch.is_grad_enabled(), features))
            inside[0] = True
            try:
                return function(x_t, t, c)
            finally:
                inside[0] = False

        return asking

    for name in ("forward", "with_features"):
        setattr(network, name, wrap(getattr(network, name), name == "with_features"))
    return asked


def passes(asked: list[Asked], rows: int, *, graph: bool) -> str:
    """Forwards for each row of the batch, to a tenth."""
    return f"{round(sum(a.rows for a in asked if a.graph == graph) / rows, 1):g}"


@dataclass(frozen=True)
class Counted:
    """What one training step of a method at its default options told."""

    with_graph: str
    without: str
    needs: tuple[str, ...]


@cache
def counted(name: str) -> Counted:
    """Of the part of that name, built as `cbdm train mixture-lt --method NAME` builds it; every label is shown."""
    settings = [f"method.parts='{name}'", "network.predicts='eps'", "network.options.width=16", "training.drop=0"]
    experiment = assemble(validated(load_config("mixture-lt", settings=[*settings, "data.options.per_class=300"])))
    objective = experiment.objective
    batch = experiment.batches.at(0)
    asked = watched(objective.network)
    terms = objective(batch.x_0, Condition.of(batch.conditions), Draws(0, 0, batch.rows))
    assert "denoising" in terms
    found = Counted(passes(asked, len(batch.rows), graph=True), passes(asked, len(batch.rows), graph=False), ())
    return replace(found, needs=tuple(_needs(name, experiment, any(a.features for a in asked))))


def _needs(name: str, experiment: Experiment, features: bool) -> list[str]:
    parameters = {} if name in BATCH_PARTS else inspect.signature(ADJUSTMENTS[name]).parameters
    adjustment = experiment.objective.adjustment
    return [
        *([f"a law, `{law_text(Part(part=name))}` by default"] if law_takers(parse_parts(name)) else []),
        *(["class counts"] if {"counts", "training"} & parameters.keys() or name in BATCH_PARTS else []),
        *(["the network, before its optimiser is made"] if "network" in parameters else []),
        *(["inner features"] if features else []),
        *(["the dropout masks of the first pass"] if adjustment.wants_dropout_state() else []),
        *(["the x_0 of the batch"] if _looks_at_x_0(experiment) else []),
    ]


def _looks_at_x_0(experiment: Experiment) -> bool:
    """Whether another x_0 beside the same x_t, ε and ε̂ changes the loss."""
    batch, objective = experiment.batches.at(0), experiment.objective.eval()
    with torch.no_grad():
        step = objective.process.denoise(
            objective.network,
            batch.x_0,
            Condition.of(batch.conditions),
            Draws(0, 0, batch.rows),
            with_features=objective.adjustment.wants_features(),
            keep_dropout=objective.adjustment.wants_dropout_state(),
        )
        one, two = (objective.adjustment(s) for s in (step, replace(step, x_0=step.x_0 + 1)))
    return any(not torch.equal(one[term], two[term]) for term in one)


@cache
def counted_step(number: int) -> str:
    """Forwards for each row of one step of DDIM."""
    oracle = GaussianMixtureOracle.ring(Cosine(), counts=COUNTS)
    asked = watched(oracle)
    network, sampler = SAMPLED[number].build(oracle)
    rows = torch.arange(20)
    x_t = Draws(0, 0, rows).normal("x", 2, dtype=torch.float64)
    sampler.step(network, x_t, 0.6, 0.5, Condition.of(rows % CLASSES), None, draws=Draws(0, 0, rows))
    return f"{sum(a.rows for a in asked) / len(rows):g}"


# The tables


def cell(text: str) -> str:
    """Text as a cell of a Markdown table: bars and stars are no markup in it."""
    return re.sub(r"([|*])", r"\\\1", text)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell(text) for text in row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source(thing: Any) -> str:
    return f"`{Path(inspect.getfile(thing)).resolve().relative_to(ROOT.resolve()).as_posix()}`"


def training_table() -> str:
    head = ("name", "what it does", "needs", "passes with a graph", "passes without", "source", "held by")
    rows = []
    for name, (phrase, test) in {**LOSS_PARTS, **BATCHES}.items():
        c = counted(name)
        batches = Transplant if name == TRANSPLANT else Batches
        where = source(batches if name in BATCHES else ADJUSTMENTS[name])
        needs = "; ".join(c.needs) or "nothing"
        rows.append((f"`{name}`", phrase, needs, c.with_graph, c.without, where, f"`{test}`"))
    return table(head, rows)


OFFERED = {"law": "a law π", "training": "the training law q", "log_posterior": "log q(y|x_t)", "null": ""}


def sampling_table() -> str:
    head = ("method", "on the command line", "what it does", "needs", "evaluations a step", "source", "held by")
    rows = []
    for number, method in enumerate(SAMPLED):
        parameters = [name for cls in method.made_by for name in inspect.signature(cls).parameters]
        needs = "; ".join(OFFERED[name] for name in parameters if OFFERED.get(name)) or "nothing"
        rows.append(
            (
                method.name,
                method.command,
                method.phrase,
                needs,
                counted_step(number),
                source(method.made_by[-1]),
                f"`{method.test}`",
            )
        )
    return table(head, rows)


def law_table() -> str:
    head = ("name", "law", "made from", "numbers it takes", "draws from a list", "learns", "source")
    rows = []
    for name in PRIORS:
        law = PRIORS[name]
        formula = (inspect.getdoc(law) or "").partition("\n")[0].rstrip(".")
        yes = {True: "yes", False: "no"}
        rows.append(
            (f"`{name}`", formula, PRIORS[name].made_from, _numbers(law), yes[law.finite], yes[law.learns], source(law))
        )
    return table(head, rows)


def _numbers(law: Any) -> str:
    told = []
    for parameter in list(inspect.signature(law).parameters.values())[1:]:
        several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        told.append("one for each class" if several else f"{parameter.name} = {parameter.default:g}")
    return ", ".join(told) or "none"


TABLES: Mapping[str, Callable[[], str]] = {
    "training": training_table,
    "sampling": sampling_table,
    "laws": law_table,
}


def rewritten(page: str) -> str:
    """The page with its tables, each between its two marks, generated anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: written by {COMMAND} -->", f"<!-- end of {name} -->"
        assert page.count(begin) == 1 and page.count(end) == 1, f"{PAGE.name} has not the marks {begin} … {end} once"
        head, _, rest = page.partition(begin)
        page = f"{head}{begin}\n\n{make()}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
