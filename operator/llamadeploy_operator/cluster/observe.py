"""What the cache knows of an owner's children, in the words of :mod:`observed`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.cluster.cache import Cache
from llamadeploy_operator.cluster.kinds import (
    APP,
    JOB,
    POD,
    STATEFUL_SET,
    VOLUME_CLAIM,
    Kind,
)
from llamadeploy_operator.desired import LiveWorkload
from llamadeploy_operator.draining import removed_at
from llamadeploy_operator.observed import (
    Observed,
    ObservedClaim,
    ObservedContainer,
    ObservedJob,
    ObservedPod,
    ObservedService,
    ObservedWorkload,
)

Json = Mapping[str, Any]
Conditions = dict[str, tuple[str, str, str]]

#: Longest text of a container's last words that is taken over.
LAST_WORDS = 600


def observe(cache: Cache, namespace: str, owner: str, uid: str, *, services: bool) -> Observed:
    """The children of one custom resource; ``services``: it is a Deployment."""
    pods = _pods_by_controller(cache, namespace, owner, of_deployment=services)
    workloads = []
    for kind in (APP, STATEFUL_SET):
        for body in _owned(cache, kind, uid):
            workloads.append(_workload(kind, body, pods))
    jobs = tuple(_job(body, pods) for body in _owned(cache, JOB, uid))
    return Observed(
        workloads=tuple(sorted(workloads, key=lambda item: (item.kind, item.name))),
        services=_services(cache, namespace, owner, uid) if services else (),
        jobs=jobs,
        claims=tuple(_claims(cache, namespace, owner, pods)) if services else (),
    )


def live_workloads(cache: Cache, uid: str) -> dict[str, LiveWorkload]:
    """By name, the live Deployments and StatefulSets of an owner."""
    return {
        body["metadata"]["name"]: LiveWorkload(
            body["spec"]["template"], body["spec"].get("replicas", 1)
        )
        for kind in (APP, STATEFUL_SET)
        for body in _owned(cache, kind, uid)
    }


def _owned(cache: Cache, kind: Kind, uid: str) -> Iterator[dict[str, Any]]:
    for key in sorted(cache.owned_by(uid)):
        if key.kind == kind:
            body = cache.get(*key)
            if body is not None:
                yield body


def _workload(kind: Kind, body: Json, pods: Mapping[str, list[Json]]) -> ObservedWorkload:
    metadata, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    mine, revision = _pods_of(kind, body, pods)
    return ObservedWorkload(
        kind=kind.kind,
        name=metadata["name"],
        component=(metadata.get("labels") or {}).get(names.COMPONENT_LABEL, ""),
        generation=metadata.get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        desired=spec.get("replicas", 1),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        conditions=conditions(status),
        pods=tuple(_pod(pod, revision) for pod in mine),
    )


def _pods_of(
    kind: Kind, body: Json, pods: Mapping[str, list[Json]]
) -> tuple[list[Json], str | None]:
    """The pods of a workload by its selector's labels, and the revision of its current ones."""
    selector = body["spec"]["selector"].get("matchLabels") or {}
    component = selector.get(names.COMPONENT_LABEL, "")
    mine = [
        pod
        for pod in pods.get(component, ())
        if selector.items() <= (pod["metadata"].get("labels") or {}).items()
    ]
    if kind == STATEFUL_SET:
        return mine, (body.get("status") or {}).get("updateRevision")
    # Which ReplicaSet is the current one is not in the Deployment: the newest pod's is.
    newest = max(mine, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
    return mine, _revision(newest) if newest else None


def _revision(pod: Json) -> str | None:
    labels = pod["metadata"].get("labels") or {}
    return labels.get("pod-template-hash") or labels.get("controller-revision-hash")


def _pods_by_controller(
    cache: Cache, namespace: str, owner: str, *, of_deployment: bool
) -> dict[str, list[Json]]:
    """The pods of a custom resource, by component."""
    label = names.DEPLOYMENT_LABEL if of_deployment else names.WORKFLOW_SERVICE_LABEL
    value = names.label_value(owner)
    found: defaultdict[str, list[Json]] = defaultdict(list)
    for key in cache.labelled(POD, namespace, label, value):
        pod = cache.get(*key)
        if pod is None:
            continue
        labels = pod["metadata"].get("labels") or {}
        if of_deployment and names.WORKFLOW_SERVICE_LABEL in labels:
            continue
        found[labels.get(names.COMPONENT_LABEL, "")].append(pod)
    return found


def _pod(pod: Json, revision: str | None) -> ObservedPod:
    status = pod.get("status") or {}
    found = conditions(status)
    scheduled = found.get("PodScheduled", ("", "", ""))
    current = revision is None or _revision(pod) == revision
    return ObservedPod(
        name=pod["metadata"]["name"],
        phase=status.get("phase", ""),
        ready=found.get("Ready", ("",))[0] == "True",
        current=current and not pod["metadata"].get("deletionTimestamp"),
        unschedulable=scheduled[2] if scheduled[:2] == ("False", "Unschedulable") else None,
        containers=tuple(_containers(status)),
    )


def _containers(status: Json) -> Iterator[ObservedContainer]:
    for item in [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]:
        state = item.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (item.get("lastState") or {}).get("terminated") or {}
        if not waiting and (not ended or ended.get("exitCode") == 0):
            continue
        text = ended.get("message") or waiting.get("message") or ""
        yield ObservedContainer(
            name=item["name"],
            waiting=waiting.get("reason"),
            terminated=ended.get("reason"),
            exit_code=ended.get("exitCode"),
            restarts=item.get("restartCount", 0),
            message=text[-LAST_WORDS:],
        )


def _job(body: Json, pods: Mapping[str, list[Json]]) -> ObservedJob:
    found = conditions(body.get("status") or {})
    name = body["metadata"]["name"]
    mine = [
        pod
        for pod in pods.get(names.RESOLVER, ())
        if (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name") == name
    ]
    seen = tuple(_pod(pod, None) for pod in mine)
    words = [container.message for pod in seen for container in pod.containers if container.message]
    return ObservedJob(
        name=name,
        succeeded=found.get("Complete", ("",))[0] == "True",
        failed=found.get("Failed", ("",))[0] == "True",
        message=words[-1] if words else found.get("Failed", ("", "", ""))[2],
        pods=seen,
    )


def _services(cache: Cache, namespace: str, deployment: str, uid: str) -> tuple[Any, ...]:
    found = []
    for key in cache.services_of(namespace, deployment):
        body = cache.get(*key)
        if body is None:
            continue
        status = body.get("status") or {}
        metadata = body["metadata"]
        found.append(
            ObservedService(
                name=metadata["name"],
                service=body["spec"].get("serviceName") or metadata["name"],
                generation=metadata.get("generation", 0),
                observed_generation=status.get("observedGeneration", 0),
                replicas=status.get("replicas", 0),
                ready=status.get("readyReplicas", 0),
                commit=(status.get("source") or {}).get("commit"),
                conditions=conditions(status),
                draining=removed_at(body) is not None,
            )
        )
    return tuple(sorted(found, key=lambda item: item.name))


def _claims(
    cache: Cache, namespace: str, deployment: str, pods: Mapping[str, list[Json]]
) -> Iterator[ObservedClaim]:
    value = names.label_value(deployment)
    for key in cache.labelled(VOLUME_CLAIM, namespace, names.DEPLOYMENT_LABEL, value):
        body = cache.get(*key)
        if body is None:
            continue
        component = (body["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL, "")
        # A claim that waits is no news before it keeps a pod from its node: many classes provide
        # volumes only then.
        held = any(_waits_for_volume(pod) for pod in pods.get(component, ()))
        phase = (body.get("status") or {}).get("phase", "")
        yield ObservedClaim(key.name, phase, _unbound(body["spec"]) if held else "")


def _waits_for_volume(pod: Json) -> bool:
    scheduled = conditions(pod.get("status") or {}).get("PodScheduled", ("", "", ""))
    about_volumes = ("persistentvolume", "storageclass")
    return scheduled[0] == "False" and any(
        word in scheduled[2].lower().replace(" ", "") for word in about_volumes
    )


def _unbound(claim: Json) -> str:
    """Why a claim may have no volume, and what to do."""
    wanted = claim.get("storageClassName")
    if wanted:
        return (
            f"StorageClass '{wanted}' has provided no volume; look whether it exists, and at the "
            "Events of the claim"
        )
    return (
        "it has no StorageClass (none is named, and the cluster has no default one) and no volume "
        "fits it; name one in storage.storageClassName of a new Deployment, or make a default "
        "StorageClass or a PersistentVolume"
    )


def conditions(status: Json) -> Conditions:
    """``status.conditions`` by type."""
    listed: Iterable[Json] = status.get("conditions") or ()
    return {
        item["type"]: (item["status"], item.get("reason", ""), item.get("message", ""))
        for item in listed
    }
