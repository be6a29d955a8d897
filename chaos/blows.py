"""What happens to the processes, the servers and the network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from chaos.clients import until
from chaos.field import Field
from chaos.proxy import Network
from chaos.servers import in_control
from llamadeploy.testing import Process


@dataclass(frozen=True)
class Blow:
    """One kind of failure; ``strike`` returns when everything was started again. ``{}`` in its name
    is the field's pause."""

    name: str
    strike: Callable[[Field], Awaitable[None]]


async def busy(field: Field, worker: Process) -> None:
    """Wait until it is in the middle of tasks."""
    cluster = field.cluster
    await until(lambda: cluster.in_work(worker.pid), f"{worker.name} runs a task", 10)


async def kill_a_worker(field: Field) -> None:
    worker = field.cluster.workers["work"][0]
    await busy(field, worker)
    worker.kill()
    worker.start()


async def kill_an_orchestrator(field: Field) -> None:
    orchestrator = field.cluster.orchestrators[0]
    orchestrator.kill()
    orchestrator.start()


async def kill_a_control_plane(field: Field) -> None:
    plane = field.cluster.control_planes[0]
    plane.kill()
    plane.start()


async def kill_one_of_each(field: Field) -> None:
    """A worker, an orchestrator and a control plane in one moment."""
    cluster = field.cluster
    victims = [cluster.workers["work"][0], cluster.orchestrators[0], cluster.control_planes[0]]
    await busy(field, victims[0])
    for victim in victims:
        victim.kill()
    cluster.start()


async def kill_the_broker(field: Field) -> None:
    await in_control(field.cluster.pair.broker.kill)
    await in_control(field.cluster.pair.broker.start)


async def kill_the_store(field: Field) -> None:
    await in_control(field.cluster.pair.store.kill)
    await in_control(field.cluster.pair.store.start)


async def kill_both_servers(field: Field) -> None:
    pair = field.cluster.pair
    await in_control(pair.broker.kill)
    await in_control(pair.store.kill)
    await in_control(pair.store.start)
    await in_control(pair.broker.start)


async def kill_everything(field: Field) -> None:
    cluster = field.cluster
    cluster.supervised = False
    cluster.kill()
    await kill_both_servers(field)
    cluster.start()
    cluster.supervised = True


async def freeze_a_worker(field: Field) -> None:
    """Its tasks end elsewhere meanwhile; then it comes back with late results."""
    worker = field.cluster.workers["work"][0]
    await busy(field, worker)
    worker.pause()
    await asyncio.sleep(field.pause)
    worker.resume()


async def freeze_the_broker(field: Field) -> None:
    broker = field.cluster.pair.broker
    broker.freeze()
    await asyncio.sleep(field.pause)
    broker.thaw()


async def freeze_the_store(field: Field) -> None:
    store = field.cluster.pair.store
    store.freeze()
    await asyncio.sleep(field.pause)
    store.thaw()


def network(names: Iterable[str], state: Network) -> Callable[[Field], Awaitable[None]]:
    """Change the network of these proxies for the field's pause."""

    async def strike(field: Field) -> None:
        if "worker" in names:
            await busy(field, field.cluster.workers["far"][0])
        proxies = [proxy for name in names for proxy in field.proxies[name]]
        for proxy in proxies:
            proxy.become(state)
        await asyncio.sleep(field.pause)
        for proxy in proxies:
            proxy.become(Network.WHOLE)

    return strike


KILLS = (
    Blow("kill -9 a worker", kill_a_worker),
    Blow("kill -9 an orchestrator", kill_an_orchestrator),
    Blow("kill -9 a control plane", kill_a_control_plane),
    Blow("kill -9 the broker", kill_the_broker),
    Blow("kill -9 the store", kill_the_store),
    Blow("kill -9 everything", kill_everything),
)

SHORT = (
    Blow("kill -9 a worker, an orchestrator and a control plane", kill_one_of_each),
    Blow("kill -9 the broker and the store", kill_both_servers),
    KILLS[-1],
)
"""For every test run."""

STOPS = (
    Blow("stop a worker for {} s", freeze_a_worker),
    Blow("stop the broker for {} s", freeze_the_broker),
    Blow("stop the store for {} s", freeze_the_store),
)

NETWORK = (
    Blow("broker cut off for {} s", network(["broker"], Network.CUT)),
    Blow("store cut off for {} s", network(["store"], Network.CUT)),
    Blow("broker silent for {} s", network(["broker"], Network.SILENT)),
    Blow("store silent for {} s", network(["store"], Network.SILENT)),
    Blow("broker and store delayed by {} s", network(["broker", "store"], Network.HELD)),
    Blow("a worker cut off from both for {} s", network(["worker"], Network.CUT)),
    Blow("a worker's network silent for {} s", network(["worker"], Network.SILENT)),
)
NETWORK_PAUSE = 15.0
