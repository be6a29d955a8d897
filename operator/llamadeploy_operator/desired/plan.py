"""What follows from a Deployment's spec for all of its children: who runs, and who is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from llamadeploy.delivery import DeliveryPolicy, policy_for
from llamadeploy.settings import HTTP_PORT, QUEUE_PORT
from llamadeploy.spec.manifest import (
    Broker,
    ControlPlane,
    DeploymentManifestSpec,
    MessageQueue,
    Orchestrator,
    RabbitMQQueue,
    RedisQueue,
    StateStore,
    Storage,
)
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import (
    DeploymentContext,
    OperatorDefaults,
    Owner,
    Parent,
    Pin,
)

AMQP_PORT = 5672
REDIS_PORT = 6379
UI_PORT = 3000

EMBEDDED_SCHEMES = frozenset({"memory", "sqlite"})
"""Stores that one process alone can open."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions about one Deployment; the same for its own children and for its services'."""

    owner: Owner
    spec: DeploymentManifestSpec
    defaults: OperatorDefaults
    pin: Pin
    secret_scheme: str | None

    @classmethod
    def of(cls, context: DeploymentContext | Parent, defaults: OperatorDefaults) -> Self:
        """The plan of a Deployment."""
        return cls(context.owner, context.spec, defaults, context.pin, context.state_store_scheme)

    # -- sections, with their defaults -----------------------------------------------------------

    @property
    def control_plane(self) -> ControlPlane:
        """``spec.controlPlane``."""
        return self.spec.control_plane or ControlPlane()

    @property
    def orchestrator(self) -> Orchestrator:
        """``spec.orchestrator``."""
        return self.spec.orchestrator or Orchestrator()

    @property
    def queue(self) -> MessageQueue:
        """``spec.messageQueue``."""
        return self.spec.message_queue or MessageQueue(type="simple")

    @property
    def broker(self) -> Broker | None:
        """The section of the queue's type, where it is a broker with an address."""
        section = getattr(self.queue, self.queue.type)
        return section if isinstance(section, Broker) else None

    @property
    def state_store(self) -> StateStore | None:
        """``spec.controlPlane.stateStore``."""
        return self.control_plane.state_store

    # -- who runs --------------------------------------------------------------------------------

    @property
    def store_scheme(self) -> str | None:
        """Scheme of the state store's URI; ``None`` while it is in a Secret that is not read."""
        store = self.state_store
        if store is None:
            return "memory"
        if store.managed is not None:
            return "redis"
        if store.uri is not None:
            return store.uri.get_secret_value().partition("://")[0].lower()
        return self.secret_scheme

    @property
    def store_durable(self) -> bool:
        """Whether state outlives the control plane's pod. What a file of SQLite lies on is the
        user's to say."""
        return self.store_scheme != "memory"

    @property
    def store_shared(self) -> bool:
        """Whether any process may open the store; one that is not known yet is taken for it."""
        return self.store_scheme not in EMBEDDED_SCHEMES

    @property
    def embedded(self) -> bool:
        """One control plane does all: queue, store and orchestrator live in it."""
        return self.queue.type == "simple" or not self.store_shared

    @property
    def control_planes(self) -> int:
        """Replicas of the control plane, where nobody else scales it."""
        return 1 if self.embedded else self.control_plane.replicas or 1

    @property
    def orchestrators(self) -> int:
        """Replicas of the orchestrator; 0: it runs inside the control plane."""
        return 0 if self.embedded else self.orchestrator.replicas or 1

    @property
    def named_control_planes(self) -> int | None:
        """The number that the operator writes; ``None``: it belongs to whoever scales."""
        return 1 if self.embedded else self.control_plane.replicas

    @property
    def named_orchestrators(self) -> int | None:
        """The same of orchestrators, where there are any."""
        return self.orchestrator.replicas

    @property
    def suspended(self) -> bool:
        """Whether no worker is to run."""
        return bool(self.spec.suspend)

    @property
    def retained(self) -> bool:
        """Whether volumes and generated Secrets outlive the Deployment."""
        return self.spec.deletion_policy == "Retain"

    @property
    def managed_queue(self) -> bool:
        """Whether the operator runs the broker."""
        return self.queue.managed is not None

    @property
    def managed_store(self) -> bool:
        """Whether the operator runs the state store."""
        return self.state_store is not None and self.state_store.managed is not None

    @property
    def queue_storage(self) -> Storage:
        """Of the managed broker."""
        managed = self.queue.managed
        return managed.storage if managed and managed.storage else Storage()

    @property
    def store_storage(self) -> Storage:
        """Of the managed state store."""
        managed = self.state_store.managed if self.state_store else None
        return managed.storage if managed and managed.storage else Storage()

    @property
    def delivery(self) -> DeliveryPolicy:
        """The queue's row of the delivery table."""
        redis = self.queue.redis or RedisQueue()
        return policy_for(self.queue.type, redis.exclusive_mode)

    @property
    def rabbitmq(self) -> RabbitMQQueue:
        """``spec.messageQueue.rabbitmq``."""
        return self.queue.rabbitmq or RabbitMQQueue()

    # -- where it is reached -----------------------------------------------------------------------

    @property
    def topic_namespace(self) -> str:
        """Prefix of topics and keys."""
        own = self.control_plane.topic_namespace
        return own or names.topic_namespace(self.owner.namespace, self.owner.name)

    @property
    def control_plane_url(self) -> str:
        """The control plane's Service, without a slash at the end."""
        return f"http://{self.host(names.control_plane(self.owner.name))}:{HTTP_PORT}"

    @property
    def simple_queue_url(self) -> str:
        """The simple queue, on the same Service."""
        return f"http://{self.host(names.control_plane(self.owner.name))}:{QUEUE_PORT}"

    @property
    def ui_port(self) -> int:
        """Where the user interface listens."""
        ui = self.spec.ui
        return (ui.port if ui is not None else None) or UI_PORT

    def host(self, service: str) -> str:
        """DNS name of a Service of the Deployment's namespace, as far as search paths need it."""
        return f"{service}.{self.owner.namespace}.svc"
