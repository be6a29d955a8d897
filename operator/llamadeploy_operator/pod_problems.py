"""What is wrong with pods, in Kubernetes' own words, as reasons of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamadeploy_operator.errors import Problem
from llamadeploy_operator.observed import (
    Observed,
    ObservedContainer,
    ObservedPod,
    ObservedWorkload,
)
from llamadeploy_operator.reasons import Reason

_WAITING = {
    "ErrImagePull": Reason.IMAGE_PULL,
    "ImagePullBackOff": Reason.IMAGE_PULL,
    "InvalidImageName": Reason.IMAGE_PULL,
    "ErrImageNeverPull": Reason.IMAGE_PULL,
    "RegistryUnavailable": Reason.IMAGE_PULL,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG,
    "CreateContainerError": Reason.CONTAINER_CREATE,
    "RunContainerError": Reason.CONTAINER_CREATE,
    "CrashLoopBackOff": Reason.CRASH_LOOP,
}

_ORDER = (
    Reason.CONTAINER_CONFIG,
    Reason.IMAGE_PULL,
    Reason.CONTAINER_CREATE,
    Reason.CRASH_LOOP,
    Reason.PODS_REFUSED,
    Reason.VOLUME_PENDING,
    Reason.UNSCHEDULABLE,
    Reason.PROGRESS_DEADLINE,
)
"""What is shown first where several are true: the likelier cause of the others."""

_CURES = {
    Reason.CONTAINER_CONFIG: "create the Secret or ConfigMap, or its key",
    Reason.IMAGE_PULL: "check the image's name and the pull Secrets",
    Reason.UNSCHEDULABLE: "add nodes, or ask for less",
}


def pod_problems(observed: Observed) -> list[Problem]:
    """Of all workloads and claims, the likeliest cause first; one for each workload and reason."""
    found: dict[tuple[str, Reason], Problem] = {}
    for workload in observed.workloads:
        for problem in _of_workload(workload):
            found.setdefault((workload.name, problem.reason), problem)
    for claim in observed.claims:
        if claim.phase == "Lost" or (claim.phase == "Pending" and claim.message):
            why = "its volume is gone" if claim.phase == "Lost" else claim.message
            text = f"volume claim {claim.name}: {why}"
            found[claim.name, Reason.VOLUME_PENDING] = Problem(Reason.VOLUME_PENDING, text)
    return sorted(found.values(), key=lambda problem: _ORDER.index(problem.reason))


def job_failure(pods: Iterable[ObservedPod]) -> str:
    """The last lines of a failed Job's pods."""
    for pod in pods:
        for container in pod.containers:
            if container.terminated not in (None, "Completed") and container.message:
                return container.message.strip()
    return ""


def _of_workload(workload: ObservedWorkload) -> Iterator[Problem]:
    for pod in workload.pods:
        # Pods on their way out are no news.
        for problem in _of_pod(pod) if pod.current else ():
            text = f"{workload.component}: {problem.message}"
            cure = _CURES.get(problem.reason)
            yield Problem(problem.reason, f"{text}; {cure}" if cure else text)
    refused = workload.conditions.get("ReplicaFailure")
    if refused is not None and refused[0] == "True":
        yield Problem(Reason.PODS_REFUSED, f"{workload.component}: {refused[2]}")
    progressing = workload.conditions.get("Progressing")
    if progressing is not None and progressing[1] == "ProgressDeadlineExceeded":
        text = f"{workload.component}: the rollout of {workload.name} does not end"
        yield Problem(Reason.PROGRESS_DEADLINE, text)


def _of_pod(pod: ObservedPod) -> Iterator[Problem]:
    if pod.unschedulable is not None:
        yield Problem(Reason.UNSCHEDULABLE, f"no node takes a pod: {pod.unschedulable}")
    for container in pod.containers:
        reason = _reason(pod, container)
        if reason is Reason.CRASH_LOOP:
            yield Problem(reason, _crash(container))
        elif reason is not None:
            yield Problem(reason, f"{container.name}: {container.message or container.waiting}")


def _reason(pod: ObservedPod, container: ObservedContainer) -> Reason | None:
    if container.waiting in _WAITING:
        return _WAITING[container.waiting]
    # Between two crashes a container runs, or waits for the next try: that is no recovery.
    crashed = container.terminated not in (None, "Completed")
    return Reason.CRASH_LOOP if crashed and container.restarts > 1 and not pod.ready else None


def _crash(container: ObservedContainer) -> str:
    if container.terminated == "OOMKilled":
        how = "was killed for using more memory than its limit; raise it in podTemplate"
    elif container.exit_code is not None:
        how = f"ends with exit code {container.exit_code}"
    else:
        how = "ends again and again"
    last = container.message.strip()
    return f"{container.name} {how}" + (f": {last}" if last else "")
