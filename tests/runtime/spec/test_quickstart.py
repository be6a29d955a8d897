"""The quickstart: both files are one deployment, and its workflows do what the docs say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from workflows.events import HumanResponseEvent, InputRequiredEvent, StopEvent

from llamadeploy.spec import (
    candidate_imports,
    load_deployment,
    to_manifests,
    unsupported_on_laptop,
)

FOLDER = Path(__file__).parents[3] / "examples" / "quickstart"
SOURCE = {path.name: path.read_text() for path in sorted((FOLDER / "src").glob("*.py"))}


def load(name: str):
    return load_deployment((FOLDER / name).read_text(), file=name)


def workflow(service: str):
    """The workflow object of a service, run from the text in the manifest."""
    spec = load("deployment.yaml").services[service]
    (target,) = candidate_imports(spec.path, None)
    module = ModuleType(f"quickstart_{target.module}")
    sys.modules[module.__name__] = module  # where the library looks a step's annotations up
    exec(compile(spec.source.files[target.files[0]], target.files[0], "exec"), module.__dict__)
    return getattr(module, target.attr)


def test_the_manifest():
    spec = load("deployment.yaml")
    assert (spec.name, spec.default_service) == ("quickstart", "echo_workflow")
    assert list(spec.services) == ["echo_workflow", "counter", "trip_planner"]
    assert (spec.message_queue.type, spec.control_plane.state_store_uri) == ("simple", None)
    assert spec.ignored == []
    assert unsupported_on_laptop(spec) == []


def test_its_code_is_the_folder_src():
    for service in load("deployment.yaml").services.values():
        assert service.source.files == SOURCE


def test_the_deployment_file_becomes_the_manifest():
    made = load_deployment(to_manifests(load("deployment-file.yaml"), local_files={"src": SOURCE}))
    wanted = load("deployment.yaml")
    for service in made.services.values():
        assert service.source.name == "quickstart-src"
        service.source.name = "quickstart-code"
    assert made == wanted


async def test_echo():
    assert await workflow("echo_workflow").run(message="hi") == "Message received: hi"


async def test_counter_streams_its_progress():
    handler = workflow("counter").run(to="3", pause="0")
    events = [event async for event in handler.stream_events()]
    assert [event.model_dump() for event in events if not isinstance(event, StopEvent)] == [
        {"count": number, "of": 3} for number in (1, 2, 3)
    ]
    assert await handler == "Counted to 3"


@pytest.mark.parametrize(("arguments", "days"), [({}, 3), ({"days": "10"}, 10)])
async def test_trip_planner_asks_and_goes_on_with_the_answer(arguments, days):
    handler = workflow("trip_planner").run(**arguments)
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            assert event.prefix == f"Where do you want to go for {days} days? "
            handler.ctx.send_event(HumanResponseEvent(response="Rome"))
    assert await handler == f"{days} days in Rome: booked"
