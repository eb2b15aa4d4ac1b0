"""Every ```python block of the pages is run, top to bottom, one namespace a page."""

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

collect_ignore_glob = ["conf.py", "_ext/*", "_build/*"]

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"], excludes=["_static/**"]).pytest()
