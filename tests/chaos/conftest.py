"""The short form of ``make chaos``: its code is the package ``chaos`` beside ``tests``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from chaos.servers import PAIRS, pair


@pytest.fixture(params=PAIRS)
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A queue and a store of the test's own, which it may kill."""
    async with pair(request.param) as started:
        yield started
