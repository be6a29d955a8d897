"""Workers that follow the work, on real pods: none of it is lost, none done for nothing."""

from __future__ import annotations

from collections.abc import Callable

from e2e.client_pod import ClientPod
from e2e.manifests import managed_redis
from e2e.operator_process import eventually
from e2e.scaling import CAPACITY, Crowd, apply, asked, at_zero
from e2e.space import Space

Client = Callable[[str], ClientPod]


def follows_the_work(space: Space, user: ClientPod) -> None:
    """200 short and 20 long tasks; 1 -> 5 -> 0 -> 3; each runs once and none is lost."""
    crowd = Crowd(user, "200:0.3", "20:20")
    eventually(lambda: asked(space) == 5, "five are asked for", CAPACITY, 0.1)
    report = crowd.report()
    assert report["created"] == 220
    assert report["attempts"] == {"1": 220}
    at_zero(space)
    seen = set()
    crowd = Crowd(user, "24:8")
    crowd.created()
    eventually(lambda: seen.add(asked(space)) or 3 in seen, "three are asked for", CAPACITY, 0.1)
    report = crowd.report()
    assert report["attempts"] == {"1": 24}
    assert max(seen) == 3
    at_zero(space)


def test_workers_follow_the_work_on_redis(space: Space, client: Client) -> None:
    apply(space, **managed_redis())
    follows_the_work(space, client("shop"))
