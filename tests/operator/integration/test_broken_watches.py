"""Watches that break in every way they do: each heals, or health says that it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.fault_proxy import FaultProxy
from e2e.operator_process import Namespace, OperatorProcess, deployment, eventually
from llamadeploy_operator.watch_limits import watch_limits

WATCHES = 13
"""Eleven by kopf, two of metadata."""


Behind = Callable[..., OperatorProcess]


@pytest.fixture
def behind(
    make_proxy: Any, api_server: Any, space: Namespace, start_operator: Callable[..., Any]
) -> Behind:
    """Start an operator whose only way to the cluster is a proxy, and that hardly ever resyncs."""

    def start(proxy: FaultProxy, *arguments: str) -> OperatorProcess:
        config: Path = api_server.control_plane.kubeconfig_for("operator", server=proxy.url)
        scope = ("--namespace", space.name, "--resync-seconds", "3600")
        process: OperatorProcess = start_operator(*scope, *arguments, kubeconfig=config)
        process.wait_working()
        eventually(lambda: proxy.watches() == WATCHES, "all watches are open")
        return process

    return start


def works(space: Namespace, name: str, seconds: float) -> None:
    """A new resource gets its children, and a deleted child comes again."""
    space.create("ldep", deployment(name, services=[], defaultService=None))
    child = f"{name}-control-plane"
    eventually(lambda: space.find("deployment", child), "a new resource is seen", seconds)
    space.delete("deployment", child)
    eventually(lambda: space.find("deployment", child), "a loss is seen", seconds)


def test_errors_and_resets_heal(
    space: Namespace, behind: Behind, make_proxy: Callable[[], FaultProxy]
) -> None:
    proxy = make_proxy()
    process = behind(proxy)
    works(space, "before", 20)
    for number, code in enumerate((500, 401, 403, 410)):
        proxy.send_error(code)
        works(space, f"code{number}", 60)
    proxy.reset()
    works(space, "reset", 60)
    # The API server refuses everything for a while. Here the process may end itself (the lease):
    # that heals too, for its pod is started again.
    for status in (500, 403):
        proxy.refuse(status)
        proxy.reset()
        eventually(lambda: proxy.watches() == 0, "all watches are gone")
        proxy.refuse(0)
        if not process.running:
            process.start()
        process.wait_working()
        works(space, f"refused{status}", 60)


def test_silence_heals_and_fails_health_only_if_it_lasts(
    space: Namespace, behind: Behind, make_proxy: Callable[[], FaultProxy]
) -> None:
    passing, lasting = make_proxy(), make_proxy()
    # Shorter than in production, where the same sum is below 120 s (test_health.py).
    limits = watch_limits(12)
    flags = ("--watch-seconds", str(limits.request))
    healing, deaf = behind(passing, *flags), behind(lasting, *flags)
    passing.silence()
    lasting.be_deaf(True)
    started = time.monotonic()

    def passed() -> float:
        return time.monotonic() - started

    # Both serve the namespace; either of them heals it.
    space.create("ldep", deployment("after", services=[], defaultService=None))
    seen = eventually(lambda: passed() if space.names("deployment") else 0, "it is seen", 60)
    assert healing.fetch("/healthz")[0] == 200

    def failed() -> bool:
        assert healing.fetch("/healthz")[0] == 200
        return deaf.fetch("/healthz")[0] == 503

    eventually(failed, "health fails", 90, step=0.5)
    # Less than a third silence would take; a busy machine answers late.
    assert passed() < 3 * limits.silence
    print(f"healed after {seen:.0f} s, health of the deaf one failed after {passed():.0f} s")
    assert "not heard" in deaf.fetch("/healthz")[1]
