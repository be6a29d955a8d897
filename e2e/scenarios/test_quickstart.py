"""What a stranger does first, on real pods: install, run, look, delete."""

from __future__ import annotations

from collections.abc import Callable

from e2e.client_pod import ClientPod
from e2e.manifests import managed_redis, quickstart
from e2e.space import Space

Client = Callable[[str], ClientPod]


def test_managed_redis(space: Space, client: Client) -> None:
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
