"""The documentation's own programs."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# `docs.site` and `release` are of the repository, not of the distribution.
sys.path.append(str(ROOT))
