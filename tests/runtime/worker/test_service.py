"""A workflow served from Python: one test per property of a service, and ``deploy_workflow``."""

from __future__ import annotations

import asyncio
import threading

import aiohttp
import pytest
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.deploy import deploy_workflow
from llamadeploy.exceptions import ConfigurationError
from llamadeploy.message_queues import SimpleMessageQueue, SimpleMessageQueueConfig
from llamadeploy.messages import ActionTypes, QueueMessage
from llamadeploy.worker.calls import NetworkWorkflow, call_service
from llamadeploy.worker.service import WorkflowService, WorkflowServiceConfig


class Echo(Workflow):
    thread = 0

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        Echo.thread = threading.get_ident()
        return StopEvent(result=f"echo {ev.get('text', '')}")


class Hanging(Workflow):
    running = 0

    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        Hanging.running += 1
        await asyncio.sleep(3600)
        return StopEvent(result="never")


class Calling(Workflow):
    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="called " + await call_service("echo", text=ev.text))


class CallingAsWorkflow(Workflow):
    @step
    async def run_it(self, ev: StartEvent) -> StopEvent:
        remote = await NetworkWorkflow("echo", timeout=None).run(text=ev.text)
        return StopEvent(result=f"called {remote}")


@pytest.fixture
async def queue(plane):
    made = SimpleMessageQueue(SimpleMessageQueueConfig(port=plane.queue_server.port))
    yield made
    await made.aclose()


@pytest.fixture
def make(plane, queue):
    def service(workflow=None, **config):
        config.setdefault("service_name", "echo")
        return WorkflowService(
            workflow or Echo(), queue, WorkflowServiceConfig(**config), keyring=plane.keyring
        )

    return service


@pytest.fixture
async def background():
    """Starts tasks that the end of the test cancels."""
    tasks = []

    def start(work):
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome


async def serve(plane, service, background):
    """The parts that make a service work, one by one as with 0.8.1."""
    await service.register_to_control_plane(plane.url)
    background(service.processing_loop())
    consume = await service.register_to_message_queue()
    return background(consume())


async def test_it_has_a_name_and_a_definition(make):
    service = make(description="says it again", host="127.0.0.1", port=7777)
    assert service.service_name == "echo"
    definition = service.service_definition
    assert definition.model_dump(include={"service_name", "description", "prompt", "port"}) == {
        "service_name": "echo",
        "description": "says it again",
        "prompt": [],
        "port": 7777,
    }
    assert definition.host == "127.0.0.1"


async def test_it_has_a_message_queue_and_a_publisher_id(make, queue):
    service = make()
    assert service.message_queue is queue
    assert service.publisher_id.startswith("WorkflowService-")
    assert service.publisher_id != make().publisher_id


async def test_its_topics_are_those_of_the_control_plane(plane, make):
    service = make()
    assert service.get_topic("echo") == "llama_deploy.echo"
    await service.register_to_control_plane(plane.url)
    assert service.get_topic("control_plane") == "tests.worker.control_plane"


async def test_it_registers_and_deregisters_with_the_control_plane(plane, make):
    service = make()
    await service.register_to_control_plane(plane.url)
    assert "echo" in await plane.control_plane.list_services()
    await service.deregister_from_control_plane()
    await service.deregister_from_control_plane()
    assert "echo" not in await plane.control_plane.list_services()


async def test_its_processing_loop_runs_what_the_queue_delivers(plane, make, background):
    await serve(plane, make(), background)
    assert (await plane.result(await plane.create(text="hi"))).result == "echo hi"


async def test_in_process_the_workflow_runs_on_the_caller_s_loop(plane, make, background):
    await serve(plane, make(), background)
    await plane.result(await plane.create())
    assert Echo.thread == threading.get_ident()


async def test_it_deregisters_from_the_message_queue(plane, make, background, eventually):
    service = make()
    await serve(plane, service, background)
    await plane.result(await plane.create())
    await service.deregister_from_message_queue()
    task_id = await plane.create()
    topic = service.get_topic("echo")
    await eventually(lambda: plane.broker.depth(topic) == 1)
    assert await plane.control_plane.wait_result(task_id, 0.3) is None


async def test_it_processes_a_message_given_to_it(plane, make, background, eventually):
    service = make()
    await service.register_to_control_plane(plane.url)
    background(service.processing_loop())  # and no consumer of the queue
    task_id = await plane.create(text="by hand")
    message = QueueMessage(action=ActionTypes.NEW_TASK, data={"task_id": task_id})
    await eventually(lambda: service._worker is not None)
    await service.process_message(message)
    assert (await plane.result(task_id)).result == "echo by hand"


async def test_it_says_what_it_cannot_process(make):
    service = make()
    with pytest.raises(ConfigurationError, match="Unhandled action: completed_task"):
        await service.process_message(QueueMessage(action=ActionTypes.COMPLETED_TASK))
    with pytest.raises(ConfigurationError, match="does not run"):
        await service.process_message(QueueMessage(action=ActionTypes.NEW_TASK))


async def test_it_publishes_to_another_service(plane, queue):
    published = []
    service = WorkflowService(
        Echo(),
        queue,
        WorkflowServiceConfig(service_name="echo"),
        publish_callback=lambda message, **more: published.append((message, more)),
    )
    await service.register_to_control_plane(plane.url)
    message = QueueMessage(type="other", action=ActionTypes.NEW_TASK, data={"task_id": "t"})
    await service.publish(message, extra=1)
    assert plane.broker.depth("tests.worker.other") == 1
    assert published == [(message, {"extra": 1})]
    assert message.publisher_id == service.publisher_id


@pytest.mark.parametrize("workflow", [Calling, CallingAsWorkflow])
@pytest.mark.defect(28)
async def test_its_workflow_calls_another_service(plane, make, background, workflow):
    await serve(plane, make(), background)
    await serve(plane, make(workflow(), service_name="caller"), background)
    result = await plane.result(await plane.create("caller", text="x"))
    assert result.result == "called echo x"


async def test_launched_as_a_server_it_tells_how_it_is(plane, make, background, eventually):
    service = make(Hanging(), port=0)
    await service.register_to_control_plane(plane.url)
    background(service.launch_server())
    background((await service.register_to_message_queue())())
    await plane.create()
    await eventually(lambda: Hanging.running == 1)
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{service.service_definition.port}/") as response,
    ):
        home = await response.json()
    assert home == {
        "service_name": "echo",
        "description": "A service that wraps a llama-index workflow.",
        "running": "True",
        "step_interval": "0.1",
        "num_outstanding_calls": "1",
        "type": "workflow_service",
    }


async def test_its_server_takes_messages(plane, make, background, eventually):
    service = make(port=0)
    await service.register_to_control_plane(plane.url)
    background(service.launch_server())
    await eventually(lambda: service._worker is not None)
    task_id = await plane.create(text="over http")
    message = QueueMessage(action=ActionTypes.NEW_TASK, data={"task_id": task_id})
    url = f"http://127.0.0.1:{service.service_definition.port}/process_message"
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=message.model_dump(mode="json")) as response,
    ):
        assert (response.status, await response.json()) == (200, None)
    message.action = ActionTypes.TASK_STREAM
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=message.model_dump(mode="json")) as response,
    ):
        assert response.status == 400
        assert "Unhandled action: task_stream" in (await response.json())["detail"]
    assert (await plane.result(task_id)).result == "echo over http"


def config_of(plane) -> ControlPlaneConfig:
    return ControlPlaneConfig(port=plane.http.port, topic_namespace="tests.worker")


async def test_deploy_workflow_serves_and_registers(plane, background):
    background(
        deploy_workflow(Echo(), WorkflowServiceConfig(service_name="echo"), config_of(plane))
    )
    task_id = None

    async def registered() -> bool:
        return "echo" in await plane.control_plane.list_services()

    deadline = asyncio.get_running_loop().time() + 10
    while not await registered():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    task_id = await plane.create(text="deployed")
    assert (await plane.result(task_id)).result == "echo deployed"


async def test_deploy_workflow_waits_for_its_control_plane(plane, background, eventually):
    port = plane.http.port
    config = config_of(plane)
    await plane.http.stop(0.0)
    background(deploy_workflow(Echo(), WorkflowServiceConfig(service_name="echo"), config))
    await plane.restart_http(port)

    async def registered() -> bool:
        return "echo" in await plane.control_plane.list_services()

    await eventually(registered)
    assert (await plane.result(await plane.create(text="late"))).result == "echo late"


async def test_cancelled_it_hands_its_tasks_back(plane, eventually):
    Hanging.running = 0
    serving = asyncio.create_task(
        deploy_workflow(Hanging(), WorkflowServiceConfig(service_name="echo"), config_of(plane))
    )

    async def registered() -> bool:
        return "echo" in await plane.control_plane.list_services()

    await eventually(registered)
    task_id = await plane.create()
    await eventually(lambda: Hanging.running == 1)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(serving, 10)
    record = await plane.store.get_task(task_id)
    assert (record.state.value, record.crashes) == ("queued", 0)


async def test_deploy_workflow_refuses_what_is_no_workflow(plane):
    with pytest.raises(ConfigurationError, match="Workflow"):
        await deploy_workflow(object(), WorkflowServiceConfig(), config_of(plane))


async def test_deploy_workflow_says_that_its_port_is_taken(plane):
    config = WorkflowServiceConfig(port=plane.http.port)
    with pytest.raises(ConfigurationError, match="is in use"):
        await asyncio.wait_for(deploy_workflow(Echo(), config, config_of(plane)), 10)


def test_its_config_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("LLAMA_DEPLOY_WF_SERVICE_SERVICE_NAME", "from_env")
    monkeypatch.setenv("LLAMA_DEPLOY_WF_SERVICE_MAX_CONCURRENT_TASKS", "3")
    monkeypatch.setenv("LLAMA_DEPLOY_WF_SERVICE_PORT", "8123")
    config = WorkflowServiceConfig()
    assert (config.service_name, config.max_concurrent_tasks) == ("from_env", 3)
    assert config.url == "http://127.0.0.1:8123"
