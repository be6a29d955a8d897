"""The short form of ``make chaos``: its code is the package ``chaos`` beside ``tests``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from chaos.servers import PAIRS, pair


@pytest.fixture(scope="session", params=PAIRS)
def servers(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A queue and a store for these tests, which kill them and start them again."""
    loop = asyncio.new_event_loop()
    started = pair(request.param)
    yield loop.run_until_complete(started.__aenter__())
    loop.run_until_complete(started.__aexit__(None, None, None))
    loop.close()
