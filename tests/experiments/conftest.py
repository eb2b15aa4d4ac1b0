import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def programs():
    """Modules of experiments/ by name; they are programs beside each other, not a package."""
    sys.path.insert(0, str(ROOT / "experiments"))
    names = ("comparisons", "tables", "digits", "ablations", "regimes", "fashion", "mixture")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(ROOT / "experiments"))
