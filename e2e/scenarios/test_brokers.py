"""The queues and stores that a Deployment can have."""

from __future__ import annotations

from collections.abc import Callable

from e2e.client_pod import ClientPod
from e2e.manifests import STORAGE, code, deployment, quickstart
from e2e.operator_process import Json
from e2e.servers import POSTGRESQL_URI, postgresql, rabbitmq
from e2e.space import Space

Client = Callable[[str], ClientPod]
Images = Callable[[str], str]

SERVICES = {
    "run": "Message received: by the SDK",
    "stream": {"counts": [1, 2, 3], "result": "Counted to 3"},
    "human": {
        "asked": "Where do you want to go for 4 days? ",
        "result": "4 days in Lisbon: booked",
    },
    "core": "Message received: by the core SDK",
}


def test_simple(space: Space, client: Client) -> None:
    """As the file stands in examples: no broker, no store."""
    space.apply(*quickstart())
    user = client("quickstart")
    space.wait_ready("quickstart")
    assert user.python("sdk.py") == SERVICES
    listed = user.llamactl("tasks", "-d", "quickstart", "-o", "json")
    assert listed.code == 0 and "succeeded" in listed.stdout, listed


def test_managed_rabbitmq(space: Space, client: Client, broker_values: Json) -> None:
    store = {"stateStore": {"managed": STORAGE}}
    queue = {"type": "rabbitmq", "managed": STORAGE}
    space.apply(*quickstart(controlPlane=store, messageQueue=queue))
    user = client("quickstart")
    space.wait_ready("quickstart", seconds=300)
    assert user.python("sdk.py") == SERVICES


def test_external_broker_and_store(space: Space, client: Client, images: Images) -> None:
    """Addresses out of Secrets; two control planes and two orchestrators share them."""
    url = rabbitmq(space, images("rabbitmq"))
    postgresql(space, images("postgresql"))
    space.create(
        "secret",
        {"metadata": {"name": "outside"}, "stringData": {"amqp": url, "state": POSTGRESQL_URI}},
    )
    spec = {
        "controlPlane": {
            "replicas": 2,
            "stateStore": {"uriFrom": {"secretKeyRef": {"name": "outside", "key": "state"}}},
        },
        "orchestrator": {"replicas": 2},
        "messageQueue": {
            "type": "rabbitmq",
            "rabbitmq": {"urlFrom": {"secretKeyRef": {"name": "outside", "key": "amqp"}}},
        },
    }
    space.apply(code("code", "v1"), deployment("shop", **spec))
    user = client("shop")
    space.wait_ready("shop", seconds=300)
    load = user.load("work", 4)
    load.passes(20)
    report = load.stop()
    assert set(report["results"]) == {"v1"}
