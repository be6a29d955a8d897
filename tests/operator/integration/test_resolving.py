"""A source is looked up once, by a Job whose log comes through the API server, and pinned."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.process_kubelet import ProcessKubelet
from e2e.operator_process import (
    Namespace,
    OperatorProcess,
    deployment,
    eventually,
    service,
    settled,
)


@pytest.fixture
def kubelet(api_server: Any, tmp_path: Path) -> Iterator[ProcessKubelet]:
    if api_server.control_plane is None:
        pytest.skip("an existing cluster has kubelets of its own")
    found = ProcessKubelet(api_server.control_plane, tmp_path)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def commit(tmp_path: Path) -> Callable[[str], str]:
    """Commit a text to the branch ``main`` of the repository ``code``."""
    folder = tmp_path / "code"
    folder.mkdir()
    author = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER")
              for what in ("NAME", "EMAIL")}  # fmt: skip

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env={**os.environ, **author},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def make(text: str) -> str:
        (folder / "workflow.py").write_text(text)
        git("add", "-A")
        git("commit", "--quiet", "-m", "change")
        return git("rev-parse", "HEAD")

    git("init", "--quiet", "-b", "main")
    return make


def pods_of(space: Namespace, job: str) -> list[str]:
    label = "batch.kubernetes.io/job-name"
    metadata = [item["metadata"] for item in space.list("pod")]
    return [item["name"] for item in metadata if (item.get("labels") or {}).get(label) == job]


def the_job(space: Namespace, *former: str) -> tuple[str, str]:
    """The name of the resolver Job that is new, and of its pod."""
    job = eventually(lambda: space.names("job") - set(former), "a resolver Job").pop()
    return job, eventually(lambda: pods_of(space, job), "its pod")[0]


def commit_of(space: Namespace) -> Any:
    """What the worker's template is pinned to."""
    worker = space.find("deployment", "d-echo-worker")
    template = worker["spec"]["template"]["metadata"] if worker else {}
    return template.get("annotations", {}).get("llamadeploy.io/commit")


def test_a_branch_is_pinned_to_what_the_job_found(
    space: Namespace,
    operator: OperatorProcess,
    kubelet: ProcessKubelet,
    commit: Callable[[str], str],
    tmp_path: Path,
) -> None:
    first = commit("flow = 1")

    def source(ref: str) -> dict[str, Any]:
        git = {"url": f"file://{tmp_path}/code", "ref": ref}
        return deployment(services=[service("echo", source={"git": git})])

    space.create("ldep", source("main"))
    job, pod = the_job(space)
    assert commit_of(space) is None
    assert kubelet.run(space.name, pod) == 0
    eventually(lambda: commit_of(space) == first, "the workers are pinned", 30)
    locks = [item for item in space.list("configmap") if item.get("data", {}).get("commit")]
    assert [(item["data"]["commit"], item["immutable"]) for item in locks] == [(first, True)]
    # Statuses are written after the children.
    eventually(
        lambda: space.get("wfs", "d-echo")["status"].get("source", {}).get("commit") == first,
        "the service shows it",
    )
    eventually(
        lambda: (
            [item.get("commit") for item in space.get("ldep", "d")["status"]["services"]] == [first]
        ),
        "the Deployment shows it",
    )
    # The Job may go, and the branch move: what is pinned stays so.
    second = commit("flow = 2")
    settled(space, operator)
    eventually(lambda: job not in space.names("job"), "the Job is pruned")
    assert commit_of(space) == first

    # Another source: the live pods stay as they are until it is known.
    space.patch("ldep", "d", {"spec": source("refs/heads/main")["spec"]})
    job, pod = the_job(space, job)
    assert commit_of(space) == first
    assert kubelet.run(space.name, pod) == 0
    eventually(lambda: commit_of(space) == second, "the workers move", 30)


def test_a_source_that_cannot_be_resolved_is_told_and_cured(
    space: Namespace,
    operator: OperatorProcess,
    kubelet: ProcessKubelet,
    commit: Callable[[str], str],
    tmp_path: Path,
) -> None:
    wanted = commit("flow = 1")
    source = {"git": {"url": f"file://{tmp_path}/code"}}
    bad = service("echo", source=source, pythonDependencies=["-r missing.txt"])
    space.create("ldep", deployment(services=[bad]))
    job, pod = the_job(space)
    assert kubelet.run(space.name, pod) == 2

    def told(kind: str, name: str) -> str:
        conditions = space.get(kind, name)["status"]["conditions"]
        found = (item["message"] for item in conditions if item["reason"] == "SourceFailed")
        return next(found, "")

    # The program's own words, on both resources.
    assert "missing.txt" in eventually(lambda: told("wfs", "d-echo"), "the service tells")
    assert space.find("deployment", "d-echo-worker") is None or commit_of(space) is None
    space.patch("ldep", "d", {"spec": {"services": [service("echo", source=source)]}})
    _, pod = the_job(space, job)
    assert kubelet.run(space.name, pod) == 0
    eventually(lambda: commit_of(space) == wanted, "the workers are pinned")
    eventually(lambda: not told("wfs", "d-echo"), "all is well")
