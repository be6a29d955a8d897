"""The quickstart on a cluster, narrated: install, deploy, run, look, clean up.

Run it with ``make demo-cluster``. The cluster is the suite's: of this machine where it can be (root
on Linux, no Docker needed), else of kind, or with ``LLAMADEPLOY_E2E_PROVIDER=existing`` that of
KUBECONFIG. Every command is shown as one would type it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from e2e.cluster.build import BuildUnavailableError, helm_binary, kubectl_binary
from e2e.helm import CRDS, OPERATOR, SYSTEM
from e2e.images import ImageUnavailableError
from e2e.providers import choose
from e2e.providers.base import ProviderUnavailableError

MANIFEST = "examples/quickstart/deployment.yaml"
NAMESPACE = "llamadeploy-demo"
DEFINITIONS = ("llamadeployments.llamadeploy.io", "workflowservices.llamadeploy.io")
ROOT = Path(__file__).parents[1]


class DemoError(Exception):
    """A command failed; it was shown, and what it said too."""


class Shell:
    """Shows commands and runs them on the cluster."""

    def __init__(self, kubeconfig: Path, programs: dict[str, Path], home: str) -> None:
        self._programs = programs
        self._environ = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": home}

    def run(self, line: str) -> None:
        """One command. Raises: DemoError."""
        print(f"$ {line}", flush=True)
        done = subprocess.run(self._command(line), env=self._environ, cwd=ROOT, check=False)
        if done.returncode:
            raise DemoError(f"`{line}` ended with {done.returncode}")

    def ask(self, line: str) -> str:
        """What a command prints, without showing it. Raises: DemoError."""
        done = subprocess.run(
            self._command(line), env=self._environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"`{line}`: {done.stderr.strip()}")
        return done.stdout

    def _command(self, line: str) -> list[str]:
        name, *rest = shlex.split(line)
        return [str(self._programs.get(name, name)), *rest]


def say(text: str) -> None:
    """A heading."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def tell(line: str) -> None:
    """Progress."""
    print(f"   {line}", flush=True)


def refuse_what_is_there(shell: Shell) -> None:
    """Cleaning up must not take what somebody else has made. Raises: DemoError."""
    found = shell.ask("kubectl get namespaces,crd -o name").split()
    own = [f"namespace/{NAMESPACE}", f"namespace/{SYSTEM}"]
    own += [f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in DEFINITIONS]
    if there := sorted(set(own) & set(found)):
        raise DemoError(
            f"the cluster has {', '.join(there)} already, which the demo would delete at its end:"
            " remove them, or take another cluster"
        )


def install(shell: Shell, image: str) -> None:
    """Both charts, the definitions first."""
    repository, _, tag = image.rpartition(":")
    shell.run(f"helm upgrade --install {CRDS} helm/{CRDS} -n {SYSTEM} --create-namespace")
    shell.run(
        f"helm upgrade --install {OPERATOR} helm/{OPERATOR} -n {SYSTEM} --wait --timeout 4m"
        f" --hide-notes --set image.repository={repository},image.tag={tag}"
        ",image.pullPolicy=IfNotPresent,settings.imagePullPolicy=IfNotPresent"
    )
    shell.run(f"kubectl -n {SYSTEM} get pods")


def deploy(shell: Shell) -> None:
    """The quickstart, until it is ready."""
    shell.run(f"kubectl create namespace {NAMESPACE}")
    shell.run(f"kubectl -n {NAMESPACE} apply --server-side -f {MANIFEST}")
    shell.run(
        f"kubectl -n {NAMESPACE} wait --for=condition=Ready llamadeployment/quickstart --timeout=5m"
    )
    shell.run(f"kubectl -n {NAMESPACE} get ldep,wfs,pods")


def tasks(shell: Shell) -> None:
    """Of the control plane's pod: llamactl is in the image, and the token in its environment."""
    inside = f"kubectl -n {NAMESPACE} exec deployment/quickstart-control-plane -- sh -c"
    login = "LLAMA_DEPLOY_TOKEN=$LLAMADEPLOY_API_TOKEN llamactl --server http://localhost:8000"
    shell.run(f"{inside} '{login} run -d quickstart -a message Hello!'")
    shell.run(f"{inside} '{login} run -d quickstart -s counter --stream -j to 3'")


def survive(shell: Shell) -> None:
    """A worker's pod is deleted; the next task is carried out."""
    shell.run(
        f"kubectl -n {NAMESPACE} delete pod --wait=false -l llamadeploy.io/service=echo_workflow"
    )
    inside = f"kubectl -n {NAMESPACE} exec deployment/quickstart-control-plane -- sh -c"
    login = "LLAMA_DEPLOY_TOKEN=$LLAMADEPLOY_API_TOKEN llamactl --server http://localhost:8000"
    shell.run(f"{inside} '{login} run -d quickstart -a message \"Still there\"'")


def clean(shell: Shell) -> None:
    """Everything that the demo has made."""
    shell.run(f"kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=2m")
    shell.run(f"helm uninstall {OPERATOR} -n {SYSTEM} --ignore-not-found --wait")
    shell.run(f"helm uninstall {CRDS} -n {SYSTEM} --ignore-not-found")
    print("   The definitions stay after that, and with them all Deployments; to delete both:")
    shell.run(f"kubectl delete crd {' '.join(DEFINITIONS)} --ignore-not-found")
    shell.run(f"kubectl delete namespace {SYSTEM} --ignore-not-found --timeout=2m")


def narrate(shell: Shell, image: str) -> None:
    """The steps."""
    refuse_what_is_there(shell)
    try:
        show(shell, image)
    finally:
        say("6. Clean up.")
        clean(shell)


def show(shell: Shell, image: str) -> None:
    """From nothing to a task's result."""
    say("2. Install: the definitions, then the operator, with two replicas of which one works.")
    install(shell, image)
    say("3. Deploy: the manifest that `llamactl serve` takes on a laptop.")
    deploy(shell)
    say("4. Run a task; then one of another service, with its events as they come.")
    tasks(shell)
    say("5. Delete the worker's pod: the next task waits for the new one.")
    survive(shell)


def main() -> int:
    """0 when all went well, 1 when a command failed, 2 when there is no cluster to be had."""
    started = time.monotonic()
    try:
        provider = choose(tell)
        say(f"1. A cluster, by the provider `{provider.name}`, and the image in it.")
        programs = {"helm": helm_binary(tell), "kubectl": kubectl_binary(tell)}
        provider.start()
        try:
            image = provider.image("app")
            print(f"$ export KUBECONFIG={provider.kubeconfig}")
            with tempfile.TemporaryDirectory() as home:
                narrate(Shell(provider.kubeconfig, programs, home), image)
        finally:
            provider.stop()
    except (ProviderUnavailableError, ImageUnavailableError, BuildUnavailableError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except DemoError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - started:.0f} s; nothing is left behind.")
    print("On your own cluster: README.md, «On Kubernetes».")
    return 0


if __name__ == "__main__":
    sys.exit(main())
