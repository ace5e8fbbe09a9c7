"""The command line with the letters model in the place of every other; run as a script."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))

import letters

import nll.models
from nll.cli import main

if __name__ == "__main__":
    nll.models.load = letters.load
    main()
