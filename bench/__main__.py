"""`python bench`: measure, print a table of ratios, stop. See program.py for the options."""

import importlib
import sys
from pathlib import Path

# Behind everything else on the path: an installed package is measured, not this checkout.
sys.path.append(str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    sys.exit(importlib.import_module("bench.program").main(sys.argv[1:]))
