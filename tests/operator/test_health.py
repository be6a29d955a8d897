"""The watchdog and its HTTP port."""

from __future__ import annotations

import aiohttp

from llamadeploy_operator.health import HealthServer, Watch, Watchdog
from llamadeploy_operator.watch_limits import watch_limits

PODS, JOBS = Watch("pods", ""), Watch("jobs.batch", "team-a")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_a_watch_that_dies_or_never_starts_fails_health() -> None:
    clock = Clock()
    watchdog = Watchdog(clock)
    server = HealthServer(watchdog, lambda: 7)
    await server.start("127.0.0.1", 0)
    try:
        # A replica that does not lead has nothing to watch.
        assert await fetch(server.port, "/healthz") == (200, "ok\n")
        watchdog.expect(PODS)
        watchdog.expect(JOBS)
        assert (await fetch(server.port, "/readyz"))[0] == 503
        watchdog.listed(PODS)
        assert (await fetch(server.port, "/readyz"))[0] == 503
        watchdog.listed(JOBS)
        assert (await fetch(server.port, "/readyz"))[0] == 200
        clock.now = watch_limits().deaf
        watchdog.beat(PODS)
        clock.now += 1
        status, text = await fetch(server.port, "/healthz")
        assert status == 503
        assert "jobs.batch team-a" in text
        assert "pods" not in text
        watchdog.beat(JOBS)
        assert (await fetch(server.port, "/healthz"))[0] == 200
        _, text = await fetch(server.port, "/metrics")
        age = 'llamadeploy_operator_watch_age_seconds{namespace="",resource="pods"} 1.0'
        assert age in text
        assert "llamadeploy_operator_queue_depth 7.0" in text
        for name in ("reconcile_seconds", "reconcile_errors_total", "leader"):
            assert f"llamadeploy_operator_{name}" in text
    finally:
        await server.stop()


def test_a_watch_that_stays_silent_fails_health_within_two_minutes() -> None:
    limits = watch_limits()
    assert limits.unhealthy < 120
    clock = Clock()
    watchdog = Watchdog(clock)
    watchdog.expect(PODS)
    watchdog.listed(PODS)
    # Silent once: the list that follows counts, as of when the silence was noticed.
    clock.now = limits.silence
    watchdog.silent(PODS)
    clock.now += 10
    watchdog.listed(PODS)
    assert watchdog.ages()[PODS] == 10
    # Heard since, after the time that the API server takes: all is well, and begins anew.
    clock.now += limits.request
    assert watchdog.deaf() == []
    watchdog.beat(PODS)
    heard = clock.now
    # Silent twice in a row: it lives from its lists alone.
    for _ in range(2):
        clock.now += limits.silence
        assert watchdog.deaf() == []
        watchdog.silent(PODS)
        watchdog.listed(PODS)
    clock.now = heard + limits.unhealthy + 1
    assert watchdog.deaf() == [PODS]


def test_signs_of_life_of_unknown_watches_are_ignored() -> None:
    watchdog = Watchdog()
    watchdog.beat(Watch("namespaces", ""))
    assert watchdog.ages() == {}
