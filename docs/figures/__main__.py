"""Draw the figures anew: `python -m docs.figures [name …]`."""

import sys

from docs.figures import NAMES, figure
from docs.figures.drawing import write

for name in sys.argv[1:] or NAMES:
    print(write(figure(name)))
