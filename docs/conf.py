"""Sphinx: MyST pages, furo, KaTeX from files that lie here, so that the built pages need no network."""

import sys
import warnings
from importlib.metadata import version as installed
from pathlib import Path

import sphinxcontrib.katex
from sphinx.deprecation import RemovedInSphinx10Warning

HERE = Path(__file__).parent
KATEX = "0.16.22"  # of the stylesheet and fonts in _static/katex
if sphinxcontrib.katex.katex_version != KATEX:
    raise RuntimeError(
        f"sphinxcontrib-katex carries KaTeX {sphinxcontrib.katex.katex_version} and docs/_static/katex {KATEX}: "
        "install with -c constraints.txt, or renew the files there"
    )
# sphinx_autodoc_typehints 3.6 calls what Sphinx 10 will drop; the pinned Sphinx 9 has it.
warnings.filterwarnings("ignore", category=RemovedInSphinx10Warning, module="sphinx_autodoc_typehints")
sys.path.insert(0, str(HERE / "_ext"))

project = "cbdm"
author = "the cbdm maintainers"
copyright = "the cbdm maintainers, Apache-2.0"
version = release = installed("cbdm")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_design",
    "sphinxcontrib.katex",
    "drawn",
    "folds",
    "held_by",
    "statement_links",
    "plain_docstrings",
    "reference",
    "sources",
    "statements",
]
# Page → rows from which a table is folded.
folded_tables = {"experiments": 8, "regimes": 8, "benchmarks": 8, "noise-levels": 12, "noise-levels-further": 12}
exclude_patterns = ["_build", "_static", "figures"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = False

html_theme = "furo"
html_title = f"cbdm {release}"
html_static_path = ["_static"]
html_css_files = ["cbdm.css"]
html_show_sphinx = False
html_copy_source = False

katex_css_path = "katex/katex.min.css"
katex_options = r"""
macros: {
  "\\E": "\\mathbb{E}",
  "\\KL": "\\operatorname{KL}",
  "\\sg": "\\operatorname{sg}",
  "\\diag": "\\operatorname{diag}",
  "\\SNR": "\\mathrm{SNR}",
  "\\eps": "\\varepsilon",
  "\\epshat": "\\hat{\\varepsilon}",
  "\\norm": "\\left\\lVert #1 \\right\\rVert",
  "\\N": "\\mathcal{N}"
}
"""

autosummary_generate = False  # the directive `reference` writes the pages
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # nn.Module's words on forward are not ours
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "none"  # sphinx_autodoc_typehints writes them
typehints_defaults = "comma"
always_use_bars_union = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style"), ("Needs", "notes_style")]
