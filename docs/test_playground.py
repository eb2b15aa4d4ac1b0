"""What docs/_static/interactive.js computes in a browser is what the library computes."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
import torch

from cbdm_core.conditions import Condition
from cbdm_core.guidance import Implied
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from cbdm_priors.laws.counts import Balanced, Null, Power, Training, Uniform
from cbdm_priors.optimum import BalancedOptimum, balanced_optimum
from docs.figures.densities import COUNTS, DEVIATION, MEANS, POINTS, mixture, network, transported
from docs.figures.drawing import HERE

SCRIPT = HERE.parent / "_static" / "interactive.js"
QUIET = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
LAWS = {
    "training": Training(COUNTS),
    "power ½": Power(COUNTS, 0.5),
    "uniform": Uniform(COUNTS),
    "balanced 0.99": Balanced(COUNTS, 0.99),
    "power −1": Power(COUNTS, -1.0),
}
Z = torch.linspace(-4, 4, POINTS, dtype=torch.float64)
MIXTURE = {"means": MEANS, "variances": [DEVIATION**2] * 3, "counts": COUNTS}


def in_chromium(expression, folder):
    page = folder / "page.html"
    write = f"document.body.textContent = JSON.stringify({expression})"
    page.write_text(
        f'<meta charset="utf-8"><body></body><script src="{SCRIPT.as_uri()}"></script><script>{write}</script>'
    )
    command = ["chromium", "--headless", "--no-sandbox", *QUIET.split(), f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    body = re.search(r"<body>(.*?)(?:<script|</body>)", done.stdout, re.S)
    assert body, done.stderr[-500:]
    return json.loads(html.unescape(body[1]))


def in_node(expression, folder):
    code = f"require({json.dumps(str(SCRIPT))}); console.log(JSON.stringify({expression}))"
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["chromium", "node"])
def computed(request, tmp_path_factory):
    """Everything at once, since a browser takes a second to start."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    m, z = json.dumps(MIXTURE), json.dumps(Z.tolist())
    points = "[-3, -1, 0.3, 2.5].flatMap((x) => [0.05, 0.4, 0.9].map((t) => [x, t]))"
    parts = {
        "schedule": "[0.001, 0.3, 0.7, 0.999].map((t) => cbdm.cosine(t))",
        "laws": f"Object.fromEntries(cbdm.names.map((n) => [n, cbdm.law(n, {m}.counts)]))",
        "effective": f"Object.fromEntries(cbdm.names.map((n) => [n, cbdm.effective(cbdm.law(n, {m}.counts))]))",
        "optima": f"Object.fromEntries(['null', ...cbdm.names].map((n) => [n, [0, 0.25, 1].map((g) => {points}.map("
        f"([x, t]) => cbdm.optimum(x, t, {m}, {{law: n, tau: 1.5, gamma: g}})))]))",
        "strengths": f"cbdm.strengths(cbdm.law('uniform', {m}.counts), {m}.counts, 0.7, 0.25)",
        "pulled": f"cbdm.transported({z}, 2, {m}, {{law: 'uniform', tau: 1, gamma: 0.25}}, () => 0.5)",
        "null": f"cbdm.transported({z}, 2, {m}, {{law: 'null', tau: 1, gamma: 0.25}}, () => 0.5)",
        "implied": f"cbdm.transported({z}, 2, {m}, {{law: 'null', tau: 0, gamma: 0}}, (t) => cbdm.implied(0.5, t))",
    }
    expression = "{" + ", ".join(f"{name}: {code}" for name, code in parts.items()) + "}"
    run = in_chromium if request.param == "chromium" else in_node
    return run(f"({expression})", tmp_path_factory.mktemp(request.param))


def near(one, other, tolerance):
    torch.testing.assert_close(torch.tensor(one, dtype=torch.float64), other.double(), rtol=tolerance, atol=tolerance)


def test_schedule(computed):
    alpha_t, sigma_t = Cosine()(torch.tensor([0.001, 0.3, 0.7, 0.999], dtype=torch.float64))
    near([at["alpha"] for at in computed["schedule"]], alpha_t, 1e-14)
    near([at["sigma"] for at in computed["schedule"]], sigma_t, 1e-14)


@pytest.mark.parametrize("name", LAWS)
def test_laws_and_their_effective_number_of_classes(computed, name):
    near(computed["laws"][name], LAWS[name].probs, 1e-13)
    near(computed["effective"][name], LAWS[name].entropy().exp(), 1e-13)


@pytest.mark.parametrize("name", ["null", *LAWS])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_optimum(computed, name, place):
    x, t = torch.cartesian_prod(torch.tensor([-3, -1, 0.3, 2.5]), torch.tensor([0.05, 0.4, 0.9])).double().T
    law = LAWS.get(name) or Null(COUNTS)
    optimum = BalancedOptimum(mixture(), law, tau=1.5, gamma=(0, 0.25, 1)[place])
    near([at["e"] for at in computed["optima"][name][place]], optimum.all_classes(x[:, None], t)[..., 0], 1e-6)
    null = optimum(x[:, None], t, Condition.of(torch.zeros(len(x), dtype=torch.long)).null())
    near([at["nothing"] for at in computed["optima"][name][place]], null[:, 0], 1e-6)


def test_strengths_are_what_the_solve_gives_the_pulls(computed):
    """Where r = q, class c is 1 + strength parts, one of them its own truth, if all other classes predict 0 for it."""
    q = torch.tensor(COUNTS, dtype=torch.float64)[None] / sum(COUNTS)
    pi, found = LAWS["uniform"].probs, []
    for c in range(3):
        e = balanced_optimum(torch.eye(3, dtype=torch.float64)[None], q, pi, torch.tensor([0.7]).double(), 0.25)[0]
        pulled = 0.7 * pi @ e + 0.7 * 0.25 * pi[c] / q[0, c] * (q[0] @ e)
        found.append(((torch.eye(3)[c] + pulled) / e[c] - 1)[0])
    near(computed["strengths"], torch.stack(found), 1e-6)


def test_trajectories(computed):
    near(computed["pulled"], transported(network(Uniform(COUNTS), 1, 0.25, 0.5), 2), 1e-6)
    near(computed["implied"], transported(network(None, 0, 0, Implied(0.5, 1.0)), 2), 1e-6)


def test_cbdm_under_the_null_law_and_the_plain_model_under_its_schedule_coincide(computed):
    near(computed["null"], torch.tensor(computed["implied"], dtype=torch.float64), 1e-10)
    assert max(abs(a - b) for a, b in zip(computed["null"], computed["pulled"], strict=True)) > 0.5
    assert isinstance(mixture(), GaussianMixtureOracle)
