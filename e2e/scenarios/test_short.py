"""The short form, part of `make test`: install, quickstart, a task and a stream, a kill, delete."""

from __future__ import annotations

from collections.abc import Callable

from e2e.client_pod import ClientPod
from e2e.manifests import managed_redis, quickstart
from e2e.operator_process import eventually
from e2e.providers.base import Provider
from e2e.space import Space, left, restarted

Client = Callable[[str], ClientPod]


def test_quickstart_with_managed_redis(space: Space, client: Client, provider: Provider) -> None:
    space.apply(*quickstart(**managed_redis()))
    user = client("quickstart")
    space.wait_ready("quickstart")
    assert user.task(message="on a cluster") == "Message received: on a cluster"
    found = user.python("sdk.py")
    assert found == {
        "run": "Message received: by the SDK",
        "stream": {"counts": [1, 2, 3], "result": "Counted to 3"},
        "human": {"asked": "Where do you want to go for 4 days? ",
                  "result": "4 days in Lisbon: booked"},
        "core": "Message received: by the core SDK",
    }  # fmt: skip
    # A worker is killed in the middle of a task: another attempt ends it.
    words = ("-a", "to", "30", "-a", "pause", "0.5")
    task = user.start("counter", *words)
    (worker,) = space.pods(component="worker", service="counter")
    (state,) = worker["status"]["containerStatuses"]
    eventually(lambda: user.state(task) == "running", "the task runs", 60, 0.2)
    provider.kill(state["containerID"])
    eventually(lambda: user.state(task) == "succeeded", "the task ends", 120, 0.5)
    eventually(
        lambda: restarted(space, worker["metadata"]["name"], state), "the worker is back", 60, 0.2
    )
    space.delete("ldep", "quickstart")
    eventually(lambda: not left(space), "nothing is left", 120, 0.5)
