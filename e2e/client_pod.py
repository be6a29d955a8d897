"""A pod beside a Deployment from which the tests use it, by its Service's name."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path
from typing import Any

from e2e.cluster.exec import Done
from e2e.operator_process import Json, eventually
from e2e.space import Space

INSIDE = Path(__file__).with_name("inside")
NAME = "client"
FOLDER = "/e2e"


def scripts(space: Space) -> None:
    """The ConfigMap ``e2e`` with the files of ``inside``."""
    data = {path.name: path.read_text() for path in sorted(INSIDE.glob("*.py"))}
    space.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "e2e"}, "data": data}
    )


class ClientPod:
    """llamactl, the SDK and steady load, out of the product's own image.

    Args:
        deployment: the Deployment that is used.
    """

    def __init__(self, space: Space, deployment: str) -> None:
        self.space = space
        self.deployment = deployment
        self.url = f"http://{deployment}-control-plane:8000"

    def place(self) -> ClientPod:
        """Make the pod, or use the one of that namespace."""
        if self.space.find("pod", NAME) is not None:
            return self
        scripts(self.space)
        self.space.run_pod(
            NAME, self.space.image, ["sleep", "infinity"],
            volumes=[{"name": "e2e", "configMap": {"name": "e2e"}}],
            volumeMounts=[{"name": "e2e", "mountPath": FOLDER}],
        )  # fmt: skip
        return self

    def llamactl(self, *words: str) -> Done:
        """``llamactl`` against the Deployment's Service."""
        return self._run("llamactl", "--server", self.url, *words)

    def task(self, **arguments: str) -> str:
        """Run a task of the default service and give what was printed.

        Raises:
            AssertionError: it failed.
        """
        words = [word for key, value in arguments.items() for word in ("-a", key, value)]
        done = self.llamactl("run", "-d", self.deployment, *words)
        assert done.code == 0, f"the task failed: {done}"
        return done.stdout.strip()

    def start(self, service: str, *words: str) -> str:
        """Start a task; gives its id.

        Raises:
            AssertionError: it was refused.
        """
        done = self.llamactl("run", "-d", self.deployment, "-s", service, "--no-wait", *words)
        assert done.code == 0, f"the task was refused: {done}"
        return done.stdout.split()[-1]

    def state(self, task: str) -> str:
        """Where a task stands; empty while nobody can tell."""
        done = self.llamactl("tasks", "-d", self.deployment, task, "-o", "json")
        return str(json.loads(done.stdout)["state"]) if done.code == 0 else ""

    def python(self, script: str, *words: str) -> Any:
        """The JSON that a script of ``inside`` printed in its last line."""
        done = self._run("python", f"{FOLDER}/{script}", self.url, self.deployment, *words)
        assert done.code == 0, f"{script} failed: {done.stderr[-3000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    def load(self, service: str, concurrency: int = 4) -> Load:
        """Start a steady load."""
        return Load(self, service, concurrency)

    def command(self, *words: str) -> list[str]:
        """With the Deployment's token in its environment."""
        token = self.space.secret_value(f"{self.deployment}-internal", "api-token")
        return ["env", f"LLAMA_DEPLOY_TOKEN={token}", *words]

    def _run(self, *words: str) -> Done:
        return self.space.run(NAME, *self.command(*words))


class Load:
    """A steady load, until :meth:`stop`.

    Attributes:
        done: tasks with the right result so far.
    """

    def __init__(self, client: ClientPod, service: str, concurrency: int) -> None:
        self._client = client
        self._file = f"/tmp/stop-{uuid.uuid4().hex}"
        self._text = ""
        self._ended: Done | None = None
        self._error: Exception | None = None
        self._command = client.command(
            "python", f"{FOLDER}/load.py", client.url, client.deployment, service,
            str(concurrency), self._file,
        )  # fmt: skip
        self.done = 0
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def passes(self, more: int, seconds: float = 120.0) -> None:
        """Wait until so many more tasks have their results."""
        goal = self.done + more

        def reached() -> bool:
            assert self._thread.is_alive(), f"the load has ended: {self._ended or self._error!r}"
            return self.done >= goal

        eventually(reached, f"{more} more tasks have ended", seconds)

    def stop(self) -> Json:
        """End it; gives its report.

        Raises:
            AssertionError: a task failed, was lost or refused.
        """
        space = self._client.space
        space.run(NAME, "touch", self._file)
        self._thread.join(240)
        ended = self._ended
        assert ended is not None and ended.code == 0, f"the load: {ended or self._error!r}"
        report: Json = json.loads(ended.stdout.splitlines()[-1])
        wrong = {key: report[key] for key in ("failed", "lost", "refused") if report[key]}
        assert not wrong, f"of {report['created']} tasks: {wrong}"
        assert report["created"] == report["succeeded"] > 0
        return report

    def _run(self) -> None:
        space = self._client.space
        try:
            self._ended = space.run(NAME, *self._command, heard=self._hear, seconds=300)
        except Exception as error:  # noqa: BLE001 - the thread that waits says it
            self._error = error

    def _hear(self, text: str) -> None:
        *lines, self._text = (self._text + text).split("\n")
        for line in lines:
            if line.startswith('{"done"'):
                self.done = json.loads(line)["done"]
