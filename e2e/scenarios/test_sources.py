"""Where code comes from: a git server and a package index in the cluster, and a ConfigMap."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.client_pod import ClientPod, scripts
from e2e.cluster.api import Api, ApiRefusedError
from e2e.manifests import CODE, code, deployment
from e2e.operator_process import eventually
from e2e.space import Space

Client = Callable[[str], ClientPod]
LOGIN = {"username": "reader", "password": "not-a-secret"}
INDEX = "llamadeploy-e2e"
"""Namespace of the package index; the operator's setting names it."""

_MAKE = """
set -e
mkdir -p /tmp/repos && cd /tmp/repos
git init -q --bare -b main code.git
git init -q -b main /tmp/tree
exec python /e2e/git_server.py /tmp/repos 8080
"""


def commit(space: Space, version: str) -> str:
    """Push another version; gives the commit."""
    script = f"""set -e; cd /tmp/tree; mkdir -p src
cat > src/workflow.py <<'CODE'
{CODE.format(version=version)}
CODE
git add . && git -c user.name=e2e -c user.email=e2e@example.org commit -qm {version}
git push -q /tmp/repos/code.git main && git rev-parse HEAD"""
    done = space.run("git", "sh", "-c", script)
    assert done.code == 0, done
    return done.stdout.strip()


def test_git(space: Space, client: Client) -> None:
    """Pinned to the commit; another one comes with a reload, not by itself."""
    scripts(space)
    space.run_pod(
        "git", space.image, ["sh", "-c", _MAKE],
        env=[{"name": "GIT_LOGIN", "value": ":".join(LOGIN.values())}],
        readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10},
        volumes=[{"name": "e2e", "configMap": {"name": "e2e"}}],
        volumeMounts=[{"name": "e2e", "mountPath": "/e2e"}],
    )  # fmt: skip
    space.expose("git", 8080)
    first = commit(space, "v1")
    space.create("secret", {"metadata": {"name": "login"}, "stringData": LOGIN})
    git = {
        "url": f"http://git.{space.name}.svc:8080/code.git",
        "ref": "main",
        "credentialsSecretRef": {"name": "login"},
    }
    service = {"name": "work", "source": {"git": git}, "path": "code/src/workflow:flow"}
    space.apply(deployment("shop", services=[service]))
    user = client("shop")
    space.wait_ready("shop", seconds=240)
    assert user.task(n="1") == "v1 1"
    assert space.get("wfs", "shop-work")["status"]["source"]["commit"] == first
    second = commit(space, "v2")
    space.delete("pod", space.pods(component="worker")[0]["metadata"]["name"])
    space.wait_ready("shop")
    assert user.task(n="2") == "v1 2", "a new pod runs what the others ran"
    reload = {"metadata": {"annotations": {"llamadeploy.io/reload": "2"}}}
    space.patch("wfs", "shop-work", reload)
    eventually(
        lambda: space.get("wfs", "shop-work")["status"]["source"]["commit"] == second,
        "the new commit is found", 180, 0.3,
    )  # fmt: skip
    space.wait_ready("shop")
    eventually(lambda: user.task(n="3") == "v2 3", "the new code runs", 60, 1)


@pytest.fixture
def index(api: Api, space: Space) -> Iterator[None]:
    """The package index that the operator was told of."""
    try:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": INDEX}})
    except ApiRefusedError as error:
        if error.status != 409:
            raise
    place = Space(api, INDEX, space.image)
    scripts(place)
    if place.find("pod", "index") is None:
        place.run_pod(
            "index", place.image, ["python", "/e2e/index_server.py", "/tmp", "8080"],
            readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10},
            volumes=[{"name": "e2e", "configMap": {"name": "e2e"}}],
            volumeMounts=[{"name": "e2e", "mountPath": "/e2e"}],
        )  # fmt: skip
        place.expose("index", 8080)
    yield
    api.request("DELETE", f"/api/v1/namespaces/{INDEX}")


def test_python_dependencies(space: Space, client: Client, index: None) -> None:
    body = code("code", "v1")
    text = body["data"]["workflow.py"]
    body["data"]["workflow.py"] = "import greetings\n" + text.replace(
        'VERSION = "v1"', "VERSION = greetings.WORD"
    )
    service = {
        "name": "work", "source": {"configMap": {"name": "code"}}, "path": "workflow:flow",
        "pythonDependencies": ["greetings<1.1"],
    }  # fmt: skip
    space.apply(body, deployment("shop", services=[service]))
    user = client("shop")
    space.wait_ready("shop", seconds=300)
    assert user.task(n="1") == "hello from 1.0 1"
    locks = [item for item in space.list("configmap") if "-lock-" in item["metadata"]["name"]]
    (lock,) = locks
    assert "greetings==1.0" in lock["data"]["requirements.txt"]
    assert "--hash=sha256:" in lock["data"]["requirements.txt"]
