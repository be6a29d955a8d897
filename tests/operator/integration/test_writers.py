"""Several write at once: people, autoscalers and GitOps tools, and nobody fights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from e2e.cluster.api import ApiRefusedError
from e2e.operator_process import (
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    service,
    settled,
)

ROUNDS = 30


def put_scale(space: Namespace, replicas: int) -> bool:
    """As the autoscaler does: read, and write that version; False: somebody was faster."""
    scale = space.get("wfs", "d-echo", "scale")
    scale["spec"]["replicas"] = replicas
    try:
        space.api.request("PUT", space.path("wfs", "d-echo", "scale"), scale)
    except ApiRefusedError as error:
        if error.status == 409:
            return False
        raise
    return True


def patch_scale(space: Namespace, replicas: int) -> bool:
    """As ``kubectl scale`` does."""
    space.patch("wfs", "d-echo", {"spec": {"replicas": replicas}}, "scale")
    return True


def test_scalers_and_a_gitops_tool_do_not_fight(
    space: Namespace, operator: OperatorProcess, api_server: Any
) -> None:
    wanted = deployment(services=[service("echo")])

    def synchronise(number: int = 0) -> bool:
        space.api.apply(space.path("ldep", "d"), wanted, manager="gitops")
        return True

    def workers() -> Any:
        return space.get("deployment", "d-echo-worker")["spec"]["replicas"]

    synchronise()
    eventually(lambda: space.find("deployment", "d-echo-worker"), "all children are there")
    settled(space, operator)
    generation = space.get("ldep", "d")["metadata"]["generation"]
    audit = api_server.audit
    audit.mark()
    together = threading.Barrier(3)

    def at_once(write: Callable[[int], bool]) -> int:
        together.wait(30)
        return sum(write(2 + number % 4) for number in range(ROUNDS))

    writers: list[Callable[[int], bool]] = [
        lambda number: patch_scale(space, number),
        lambda number: put_scale(space, number),
        synchronise,
    ]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(at_once, writers))
    settled(space, operator)
    scale_writes = done[0] + done[1]
    assert scale_writes >= ROUNDS
    written = audit.writes(user="operator", namespace=space.name)
    print(f"{scale_writes} writes of /scale, {done[2]} syncs; the operator wrote {dict(written)}")
    # It answers with the workers' number and the status: never with the resource's own fields,
    # and never more than once for each write.
    assert ("patch", "workflowservices") not in written
    assert ("patch", "llamadeployments") not in written
    assert written["patch", "deployments"] <= scale_writes
    assert space.get("ldep", "d")["metadata"]["generation"] == generation
    last = space.get("wfs", "d-echo")["spec"]["replicas"]
    assert workers() == last

    # Each of them in turn is the last, and stays it, however often the others look.
    for replicas, scale in ((3, patch_scale), (4, put_scale)):
        assert scale(space, replicas)
        eventually(lambda number=replicas: workers() == number, "the workers follow")  # type: ignore[misc]
        synchronise()
        settled(space, operator)
        assert (space.get("wfs", "d-echo")["spec"]["replicas"], workers()) == (replicas, replicas)
    audit.mark()
    for _ in range(5):
        synchronise()
    done_before = operator.reconciled()
    eventually(lambda: operator.reconciled() >= done_before + 6, "it looks again")
    assert audit.writes(user="operator", namespace=space.name) == {}
