"""The names that users import are pinned: removing or adding one is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llamadeploy

PUBLIC = {
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
}


def test_the_public_names_are_these() -> None:
    assert set(llamadeploy.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(llamadeploy, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        llamadeploy.Clients  # noqa: B018


def test_importing_the_client_loads_no_server_and_no_workflow_library() -> None:
    code = (
        "import sys, llamadeploy; llamadeploy.Client;"
        "print([m for m in ('fastapi', 'uvicorn', 'workflows', 'sqlite3', 'aiohttp')"
        " if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
