"""LlamaDeploy: LlamaIndex workflows as durable services, on a laptop or on Kubernetes.

The public names are those that users of LlamaDeploy know. Each is imported when it is first used,
so that a client does not load a server and a worker does not load a broker it does not use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llamadeploy._version import __version__

if TYPE_CHECKING:
    from llamadeploy.client import Client
    from llamadeploy.control_plane.config import ControlPlaneConfig
    from llamadeploy.control_plane.server import ControlPlaneServer
    from llamadeploy.deploy import deploy_core, deploy_workflow
    from llamadeploy.message_queues import (
        AWSMessageQueue,
        AWSMessageQueueConfig,
        KafkaMessageQueue,
        KafkaMessageQueueConfig,
        RabbitMQMessageQueue,
        RabbitMQMessageQueueConfig,
        RedisMessageQueue,
        RedisMessageQueueConfig,
        SimpleMessageQueue,
        SimpleMessageQueueConfig,
        SimpleMessageQueueServer,
    )
    from llamadeploy.messages import ActionTypes, QueueMessage
    from llamadeploy.orchestrator import (
        BaseOrchestrator,
        SimpleOrchestrator,
        SimpleOrchestratorConfig,
    )
    from llamadeploy.types import (
        EventDefinition,
        ServiceDefinition,
        SessionDefinition,
        TaskDefinition,
        TaskResult,
    )
    from llamadeploy.worker.calls import NetworkWorkflow, call_service
    from llamadeploy.worker.service import WorkflowService
    from llamadeploy.worker.service_config import WorkflowServiceConfig

_HOME = {
    "client": ("Client",),
    "control_plane.config": ("ControlPlaneConfig",),
    "control_plane.server": ("ControlPlaneServer",),
    "deploy": ("deploy_core", "deploy_workflow"),
    "message_queues": (
        "AWSMessageQueue",
        "AWSMessageQueueConfig",
        "KafkaMessageQueue",
        "KafkaMessageQueueConfig",
        "RabbitMQMessageQueue",
        "RabbitMQMessageQueueConfig",
        "RedisMessageQueue",
        "RedisMessageQueueConfig",
        "SimpleMessageQueue",
        "SimpleMessageQueueConfig",
        "SimpleMessageQueueServer",
    ),
    "messages": ("ActionTypes", "QueueMessage"),
    "orchestrator": ("BaseOrchestrator", "SimpleOrchestrator", "SimpleOrchestratorConfig"),
    "types": (
        "EventDefinition",
        "ServiceDefinition",
        "SessionDefinition",
        "TaskDefinition",
        "TaskResult",
    ),
    "worker.calls": ("NetworkWorkflow", "call_service"),
    "worker.service": ("WorkflowService",),
    "worker.service_config": ("WorkflowServiceConfig",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AWSMessageQueue",
    "AWSMessageQueueConfig",
    "ActionTypes",
    "BaseOrchestrator",
    "Client",
    "ControlPlaneConfig",
    "ControlPlaneServer",
    "EventDefinition",
    "KafkaMessageQueue",
    "KafkaMessageQueueConfig",
    "NetworkWorkflow",
    "QueueMessage",
    "RabbitMQMessageQueue",
    "RabbitMQMessageQueueConfig",
    "RedisMessageQueue",
    "RedisMessageQueueConfig",
    "ServiceDefinition",
    "SessionDefinition",
    "SimpleMessageQueue",
    "SimpleMessageQueueConfig",
    "SimpleMessageQueueServer",
    "SimpleOrchestrator",
    "SimpleOrchestratorConfig",
    "TaskDefinition",
    "TaskResult",
    "WorkflowService",
    "WorkflowServiceConfig",
    "__version__",
    "call_service",
    "deploy_core",
    "deploy_workflow",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
