"""The quickstart, narrated: serve a deployment, run a task, stream another, answer a third.

Run it with ``make demo``. It uses a data directory and a port of its own and removes both.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workflows.events import HumanResponseEvent

from llamadeploy import Client, TaskDefinition

MANIFEST = Path(__file__).parent / "deployment.yaml"
LLAMACTL = Path(sys.executable).parent / "llamactl"
READY_SECONDS = 60


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(command: list[str]) -> None:
    print(f"$ {shlex.join(['llamactl', *command])}", flush=True)


def llamactl(server: str, *command: str) -> None:
    show(list(command))
    env = {**os.environ, "COLUMNS": "100"}
    subprocess.run([LLAMACTL, "--server", server, *command], check=True, env=env)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run ``llamactl serve`` on a free port; yields the server's URL and stops it at the end."""
    manifest = os.path.relpath(MANIFEST)
    show(["serve", manifest])
    log = folder / "serve.log"
    command = [LLAMACTL, "serve", manifest, "--port", "0", "--data-dir", folder / "data"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
        try:
            yield first_line(server, log)
        finally:
            server.terminate()
            server.wait(timeout=30)


def first_line(server: subprocess.Popen[str], log: Path) -> str:
    """The URL of the server's first line, which it prints once every service is ready."""
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        server.wait(timeout=READY_SECONDS)
        sys.exit(f"The server did not start:\n{log.read_text()}")
    print(line, end="", flush=True)
    return line.split()[-1]


def stream(deployment: Any) -> None:
    task = deployment.tasks.create(
        TaskDefinition(input=json.dumps({"to": 5}), service_id="counter")
    )
    for event in task.events():
        print(f"  event: {event}", flush=True)
    print(f"  result: {task.results(wait=10).result}")


def ask(deployment: Any) -> None:
    task = deployment.tasks.create(
        TaskDefinition(input=json.dumps({"days": 4}), service_id="trip_planner")
    )
    events = task.events()
    question = next(events)["_data"]["prefix"]  # fields an event class does not declare nest there
    print(f"  the workflow asks: {question}")
    print("  (while it waits, it is stored, and occupies no worker)")
    print("  we answer: Lisbon")
    task.send_event(HumanResponseEvent(response="Lisbon"), "trip_planner")
    for _ in events:
        pass
    print(f"  result: {task.results(wait=10).result}")


def main() -> None:
    started = time.monotonic()
    say("1. Serve a deployment: three workflows, each a service with a worker process of its own.")
    print("   The file is a Kubernetes manifest; a cluster takes the same one.")
    with (
        tempfile.TemporaryDirectory(prefix="llamadeploy-demo-") as folder,
        serving(Path(folder)) as server,
    ):
        llamactl(server, "status")

        say("2. Run a task and wait for its result.")
        llamactl(server, "run", "-d", "quickstart", "-a", "message", "Hello!")

        deployment = Client(api_server_url=server).sync.apiserver.deployments.get("quickstart")
        say("3. Start a task and watch its events as they come (Python SDK).")
        stream(deployment)

        say("4. A task that asks a person, and goes on with the answer.")
        ask(deployment)

        say("5. Stop: workers finish what they run, then everything ends.")
    print(f"\nDone in {time.monotonic() - started:.0f} s; nothing is left behind.")
    print(f"Serve it yourself: {os.path.relpath(LLAMACTL)} serve {os.path.relpath(MANIFEST)}")


if __name__ == "__main__":
    main()
