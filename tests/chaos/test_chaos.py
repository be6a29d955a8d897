"""Everything that can be killed is killed under load; the long form is ``make chaos``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaos.blows import NETWORK, SHORT
from chaos.disk import full_disk
from chaos.feats import answers_while_workers_die
from chaos.field import field_on
from chaos.rounds import one_round

SILENT = next(blow for blow in NETWORK if blow.name.startswith("a worker's network silent"))
LONGER_THAN_A_LEASE = 8.0


@pytest.mark.rule(1, 3, 4, 5, 9)
@pytest.mark.defect(8, 9, 29)
@pytest.mark.timeout(240)
async def test_killed_processes_and_servers_lose_nothing(servers: Any, tmp_path: Path) -> None:
    async with field_on(servers, tmp_path, proxied=False, pause=0) as field:
        for blow in SHORT:
            row = await one_round(field, blow, 80)
            assert row.held, row
            # The blow fell into the middle of the work.
            assert row.done_before < row.tasks


@pytest.mark.rule(1, 9)
@pytest.mark.timeout(180)
async def test_a_worker_whose_network_is_silent_changes_nothing(
    servers: Any, tmp_path: Path
) -> None:
    async with field_on(servers, tmp_path, proxied=True, pause=LONGER_THAN_A_LEASE) as field:
        row = await one_round(field, SILENT, 100)
    assert row.held, row
    assert row.begun > 0, "the worker that was cut off had nothing in work"


@pytest.mark.rule(6, 7)
@pytest.mark.defect(5)
@pytest.mark.timeout(180)
async def test_questions_are_answered_while_workers_die(servers: Any) -> None:
    for feat in await answers_while_workers_die(servers, questions=10, kills=2):
        assert feat.held, feat


@pytest.mark.rule(3)
@pytest.mark.timeout(180)
async def test_a_full_disk_refuses_tasks_and_loses_none() -> None:
    feat = await full_disk()
    assert feat.held, feat
