"""Every example runs on a laptop, and is taken by a Kubernetes API server as it is."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from workflows.events import HumanResponseEvent

from llamadeploy import Client, TaskDefinition
from llamadeploy.delivery import policy_for
from llamadeploy.spec import load_deployments

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DAY = 86400

pytestmark = pytest.mark.timeout(300)


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


MANIFESTS = sorted(
    path
    for path in EXAMPLES.rglob("*.yaml")
    if "gitops" not in path.parts and all("kind" in each for each in documents(path))
)


@pytest.fixture(scope="module")
def server(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One server for all examples; each is deployed by ``llamactl``."""
    with serve(tmp_path_factory.mktemp("examples") / "data") as running:
        yield running


@pytest.fixture
def deployed(server: Any) -> Callable[..., Any]:
    """``deployed(file)``: the deployment, by the SDK; it ends with the server."""

    def deploy(path: Path) -> Any:
        deployments = Client(api_server_url=server.url).sync.apiserver.deployments
        with path.open("rb") as file:
            return deployments.create(file, base_path=str(path.parent))

    return deploy


def ask(deployment: Any, **arguments: str) -> str:
    return str(deployment.tasks.run(TaskDefinition(input=json.dumps(arguments))))


def test_echo(server: Any) -> None:
    server.llamactl("deploy", EXAMPLES / "echo" / "deployment.yaml")
    assert server.llamactl("run", "-d", "echo", "-a", "message", "Hi") == "You said: Hi\n"


def test_streaming(deployed: Any, server: Any) -> None:
    deployment = deployed(EXAMPLES / "streaming" / "deployment.yaml")
    endless = deployment.tasks.create(TaskDefinition(input=json.dumps({"chapters": 500})))
    events = endless.events()
    assert next(events) == {"number": 1, "text": "Chapter 1."}
    assert endless.results() is None, "the first event came with the last"
    endless.cancel()
    assert len(list(events)) < 499
    task = deployment.tasks.create(TaskDefinition(input=json.dumps({"chapters": 3})))
    assert [each.get("number") for each in task.events()] == [1, 2, 3, None]
    assert task.results(wait=30).result == "3 chapters"
    url = f"{server.url}/deployments/streaming/tasks/{task.id}/events?after=1"
    request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        text = reply.read().decode()
    assert "id: 2" in text and "Chapter 3." in text and "Chapter 1." not in text


def test_two_services(deployed: Any) -> None:
    deployment = deployed(EXAMPLES / "two-services" / "deployment.yaml")
    assert ask(deployment, topics="tea,coffee") == "All about tea. All about coffee."


def test_team_service(deployed: Any) -> None:
    deployment = deployed(EXAMPLES / "team-service" / "deployment.yaml")
    assert ask(deployment, text="hello world") == "hallo Welt"


def test_custom_image(deployed: Any, server: Any) -> None:
    folder = EXAMPLES / "custom-image"
    assert ask(deployed(folder / "laptop.yaml")) == "This file is workflow.py"
    refused = server.llamactl("deploy", folder / "deployment.yaml", check=False)
    assert "image" in refused and "Error" in refused
    (service,) = documents(folder / "deployment.yaml")[-1]["spec"]["services"]
    (here,) = load_deployments((folder / "laptop.yaml").read_text())
    assert service["path"] == here.services["where"].path


def test_rabbitmq_postgresql(
    deployed: Any, rabbitmq_server: Any, rabbitmq_vhost: str, postgresql_server: Any, tmp_path: Path
) -> None:
    text = (EXAMPLES / "rabbitmq-postgresql" / "deployment.yaml").read_text()
    secret = documents(EXAMPLES / "rabbitmq-postgresql" / "deployment.yaml")[0]["stringData"]
    text = text.replace(secret["rabbitmq"], rabbitmq_server.url(rabbitmq_vhost))
    text = text.replace(secret["postgresql"], postgresql_server.uri)
    file = tmp_path / "deployment.yaml"
    file.write_text(text)
    assert ask(deployed(file), item="tea") == "Order of tea taken"


def test_autoscaling(deployed: Any, server: Any) -> None:
    """What scales is the operator's; a laptop says that it does not, and runs the service."""
    deployment = deployed(EXAMPLES / "autoscaling" / "deployment.yaml")
    assert ask(deployment, page="1", seconds="0") == "1 rendered"
    (service,) = documents(EXAMPLES / "autoscaling" / "deployment.yaml")[-1]["spec"]["services"]
    queue = documents(EXAMPLES / "autoscaling" / "deployment.yaml")[-1]["spec"]["messageQueue"]
    assert service["autoscaling"]["minReplicas"] == 0
    assert policy_for(queue["type"], queue["redis"]["exclusiveMode"]).scale_to_zero


@pytest.fixture(scope="module")
def refunds(server: Any) -> Any:
    """The example that asks a person."""
    server.llamactl("deploy", EXAMPLES / "human-in-the-loop" / "deployment.yaml")
    return server.deployment("refunds")


def test_human_in_the_loop(refunds: Any) -> None:
    """Two weeks are not waited for, but the limit is seen; that a waiting task outlives its server
    shows test_backup.py, with this example."""
    task = refunds.tasks.create(TaskDefinition(input=json.dumps({"amount": "12 EUR"})))
    assert next(task.events())["_data"]["prefix"] == "Refund 12 EUR? "
    status = until_waiting(task)
    assert 13 * DAY < status.wait_deadline - time.time() <= 14 * DAY
    assert status.resident is None, "it would not survive in a store"
    task.send_event(HumanResponseEvent(response="no"), "refund")
    assert task.results(wait=60).result == "12 EUR kept"


def until_waiting(task: Any) -> Any:
    deadline = time.monotonic() + 60
    while (status := task.status()).state != "waiting":
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


def test_the_script_of_the_page(refunds: Any, server: Any, block: Any) -> None:
    printed: list[object] = []
    code = block("examples.md", "python")
    code = code.replace("Client()", f"Client(api_server_url={server.url!r})")
    exec(compile(code, "examples.md", "exec"), {"print": printed.append})
    assert printed[-1] == "12 EUR refunded"


def test_every_example_is_on_the_page() -> None:
    text = (ROOT / "docs" / "examples.md").read_text()
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {"gitops"}
    assert {name for name in folders if f"(../examples/{name}" not in text} == set()


PATHS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps/",
    "Secret": "/api/v1/namespaces/{}/secrets/",
    "Deployment": "/apis/llamadeploy.io/v1alpha1/namespaces/{}/llamadeployments/",
    "WorkflowService": "/apis/llamadeploy.io/v1alpha1/namespaces/{}/workflowservices/",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings/",
}


def test_a_cluster_takes_them_as_they_are(api: Any, namespace: str) -> None:
    assert len(MANIFESTS) >= 9
    for file in MANIFESTS:
        for each in documents(file):
            path = PATHS[each["kind"]].format(namespace) + each["metadata"]["name"]
            params = {
                "fieldManager": "kubectl", "fieldValidation": "Strict", "dryRun": "All",
                "force": "true",
            }  # fmt: skip
            api.request(
                "PATCH", path, each, params=params, content_type="application/apply-patch+yaml"
            )
