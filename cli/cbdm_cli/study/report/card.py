"""The card at the head of a comparison's page: what is best, what decides, how much is there, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from cbdm_cli.numerals import number
from cbdm_cli.study.plan import readings_of
from cbdm_cli.study.report.collect import Story
from cbdm_cli.study.report.wording import estimate_text
from cbdm_cli.study.results import sign_of
from cbdm_cli.study.summary import Row, against
from cbdm_core.metrics.scores import digits_of, label_of

__all__ = ["card"]

_SHOWN = {"fid": "Best", "tail fid": "Best", "tail recall": "Best", "tail copies": "Fewest"}
_FEWEST = 3  # paired seeds that an interval needs


def card(story: Story) -> list[tuple[str, str]]:
    """(what, answer) lines of a comparison; none for runs, and none before anything was judged."""
    rows = [scores.row for scores in story.method_scores]
    if story.plan is None or not rows:
        return []
    lines = [(f"{word} {label_of(score)}", text) for score, word in _SHOWN.items() if (text := _best(rows, score))]
    lines += [("What decides", _decides(rows))] if len(rows) > 1 else []
    lines += [("Cost of sampling", text)] if (text := _cost(story)) else []
    there, asked = _standing(story)
    if there < asked:
        lines.append(("Unfinished", f"{there} of {asked} readings are there; the rest may change all of this"))
    return [*lines, ("Next", _next(story, rows, there < asked))]


def _best_row(rows: Sequence[Row], score: str) -> Row | None:
    sign = sign_of(score)
    having = [row for row in rows if score in row.scores]
    return min(having, key=lambda row: sign * row.scores[score].mean, default=None)


def _best(rows: Sequence[Row], score: str) -> str:
    row = _best_row(rows, score)
    if row is None:
        return ""
    text = f"{row.name} at ω {row.omega_text()}: {estimate_text(row.scores[score], digits_of(score))}"
    if same := sum(_digits(other, score) == _digits(row, score) for other in rows if other is not row):
        return f"{text}, as {'one other row has' if same == 1 else f'{same} other rows have'}"
    difference = (row.differences or {}).get(score)
    if difference is None:
        return text
    shown = "" if difference.excludes_zero else ", not shown to differ"
    return f"{text} ({_signed(difference.mean, score)} against {rows[0].name}{shown})"


def _digits(row: Row, score: str) -> str | None:
    """The mean as the page writes it."""
    return number(row.scores[score].mean, digits_of(score)) if score in row.scores else None


def _decides(rows: Sequence[Row]) -> str:
    """The best trained method against the plain model under the best guidance known for it."""
    plain = _best_row([row for row in rows if row.variant == rows[0].variant], "fid") or rows[0]
    trained = _best_row([row for row in rows if row.variant != rows[0].variant], "fid")
    if trained is None:
        return "no other method has been judged"
    found = against(trained, plain, "fid")
    if found is None or len(trained.seeds) < _FEWEST:
        return f"{trained.name} against {plain.name}: fewer than {_FEWEST} paired seeds"
    word = "not shown to differ" if not found.excludes_zero else "better" if found.mean < 0 else "worse"
    return f"{trained.name} against {plain.name}: FID {_signed(found.mean, 'fid')} ± {found.half_width:.2f}, {word}"


def _cost(story: Story) -> str:
    evaluations = {
        scores.row.name: {float(result["nfe"]) for result in scores.best().values() if "nfe" in result}
        for scores in story.method_scores
    }
    known = {name: max(values) for name, values in evaluations.items() if values}
    if not known:
        return ""
    if len(set(known.values())) == 1:
        return f"{next(iter(known.values())):g} network evaluations a sample, for each row"
    return "network evaluations a sample: " + "; ".join(f"{name} {value:g}" for name, value in known.items())


def _standing(story: Story) -> tuple[int, int]:
    """(readings that are there, readings that the plan asks for)."""
    plan = story.plan
    assert plan is not None
    there = sum(len(by_seed) for scores in story.method_scores for by_seed in scores.results.values())
    return there, plan.seeds * sum(len(readings_of(plan, variant)) for variant in plan.variants)


def _next(story: Story, rows: Sequence[Row], unfinished: bool) -> str:
    """The first of these that applies: finish; more seeds; look at copies; a wider grid of ω; train longer."""
    assert story.plan is not None
    if unfinished:
        return "finish the comparison: cbdm compare with its folder"
    if story.plan.seeds < _FEWEST:
        return f"run {_FEWEST} seeds or more; fewer give no interval"
    best = _best_row(rows, "fid")
    copies = None if best is None else (best.differences or {}).get("tail copies")
    if best is not None and copies is not None and copies.excludes_zero and copies.mean > 0:
        return (
            f"{best.name} copies more of the tail than {rows[0].name}: judge it earlier in training "
            "(training.keep_best), or compare recalls before choosing it"
        )
    if edges := [row.name for row in rows if row.at_edge]:
        return f"widen the grid of ω: the best lies at its end for {', '.join(edges)}"
    if not any(d.excludes_zero for row in rows for d in [(row.differences or {}).get("fid")] if d):
        return "nothing is shown to differ in FID: more seeds, or another length of training"
    return "judge the best with other seeds, features and length of training before relying on it"


def _signed(value: float, score: str) -> str:
    return number(value, digits_of(score), sign=True)
