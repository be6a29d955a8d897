"""Deployments and services that share a queue, a store and sessions, and keep apart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chaos.cluster import Cluster, running
from chaos.rounds import clients_of

SERVICES: dict[str, dict[str, Any]] = {
    "work": {},
    "other": {"path": "workflow:work"},
    "call": {},
}


@pytest.mark.rule(4, 14)
@pytest.mark.defect(14, 15, 28)
@pytest.mark.timeout(180)
async def test_deployments_services_and_sessions_keep_apart(servers: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one, two = (
        Cluster(servers, each, SERVICES, control_planes=1, orchestrators=1) for each in folders
    )
    async with running(one), running(two), clients_of(one) as clients, clients_of(two) as others:
        # The same numbers of both deployments at once: each counts its own, in order.
        await asyncio.gather(clients.in_session(range(1, 21)), others.in_session(range(1, 11)))
        assert clients.book.wrong() == others.book.wrong() == []
        assert {number for _, number, _, _ in one.runs()} == set(range(1, 21))
        assert {number for _, number, _, _ in two.runs()} == set(range(1, 11))
        # Two services in one session: contexts of their own.
        session, _ = clients.book.ids[1]
        clients.service = "other"
        await clients.create(21, "count", session)
        assert (await clients.result_of(21)).startswith("count 1 ")
        clients.service = "work"
        await clients.create(22, "count", session)
        assert (await clients.result_of(22)).startswith("count 21 ")
        # A service calls another one of its deployment.
        clients.service = "call"
        await clients.create(23, "call")
        assert (await clients.result_of(23)).startswith("call run -23 ")
        found = await others.call("GET", "/sessions")
        assert session not in found
        assert set(others.book.sessions) <= set(found)
