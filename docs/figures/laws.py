"""Laws made from the counts of digits-lt, and their effective number of classes."""

from __future__ import annotations

from typing import Any

from cbdm_core.priors import LabelPrior
from cbdm_priors.laws.counts import Balanced, Power, Training, Uniform
from docs.figures.drawing import Figure, plain_log, ramp, rounded

COUNTS = (174, 112, 72, 47, 30, 19, 12, 8, 5, 3)
LAWS: dict[str, LabelPrior] = {
    "training": Training(COUNTS),
    "power ½": Power(COUNTS, 0.5),
    "uniform": Uniform(COUNTS),
    "balanced 0.99": Balanced(COUNTS, 0.99),
    "power −1": Power(COUNTS, -1.0),
}


def numbers() -> dict[str, Any]:
    return {
        name: {"probs": rounded(law.probs), "effective": rounded(float(law.entropy().exp()))}
        for name, law in LAWS.items()
    }


def alt(numbers: dict[str, Any]) -> str:
    said = "; ".join(
        f"{name} from {of['probs'][0]:.3f} to {of['probs'][-1]:.3f}, {of['effective']:.1f} effective classes"
        for name, of in numbers.items()
    )
    return (
        f"Probabilities of five laws over ten classes, from the commonest to the rarest, on a logarithmic axis: {said}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    for colour, marker, (name, of) in zip(ramp(len(numbers)), "osD^v", numbers.items(), strict=True):
        label = f"{name}: exp H = {of['effective']:.1f}"
        axes[0].plot(range(len(COUNTS)), of["probs"], color=colour, marker=marker, ms=5, label=label)
    axes[0].set(xlabel="training images of the class", ylabel="π(y)", yscale="log")
    axes[0].set_xticks(range(len(COUNTS)), [str(n) for n in COUNTS])
    plain_log(axes[0].yaxis)


FIGURE = Figure(
    "laws",
    "Five laws over the classes of digits-lt, with the effective number of classes, exp H(π).",
    numbers,
    alt,
    draw,
)
