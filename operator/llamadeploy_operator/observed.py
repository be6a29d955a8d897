"""What was seen of the children: all that ``status`` looks at beside the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    """A container (init containers too) that is not running as it should.

    Attributes:
        waiting: reason why it has not started, such as ``ImagePullBackOff``.
        terminated: reason of its last end, such as ``Error`` or ``OOMKilled``.
        message: Kubernetes' text to the former, or the last lines of the latter.
    """

    name: str
    waiting: str | None = None
    terminated: str | None = None
    exit_code: int | None = None
    restarts: int = 0
    message: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod of a workload or Job.

    Attributes:
        unschedulable: the scheduler's message while no node takes it.
        containers: those with a waiting or terminated state; healthy ones may be left out.
        current: it has the workload's current template; ``False`` for pods that are on their way
            out.
    """

    name: str
    phase: str
    ready: bool = False
    current: bool = True
    unschedulable: str | None = None
    containers: tuple[ObservedContainer, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedWorkload:
    """A Deployment (apps/v1) or StatefulSet.

    Attributes:
        component: one of ``names.COMPONENTS``.
        conditions: type -> (status, reason, message), of Deployments.
    """

    kind: str
    name: str
    component: str
    generation: int
    observed_generation: int
    desired: int
    replicas: int = 0
    updated: int = 0
    ready: int = 0
    available: int = 0
    conditions: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    pods: tuple[ObservedPod, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedJob:
    """A resolver Job; ``message`` holds the last lines of its failed pod."""

    name: str
    succeeded: bool = False
    failed: bool = False
    message: str = field(default="", repr=False)
    pods: tuple[ObservedPod, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedClaim:
    """A PersistentVolumeClaim."""

    name: str
    phase: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class ObservedService:
    """A WorkflowService that belongs to the Deployment, inline or not.

    Attributes:
        service: its name on the wire.
        conditions: of its status: type -> (status, reason, message).
        draining: it was removed from the spec and ends its tasks.
    """

    name: str
    service: str
    generation: int
    observed_generation: int
    replicas: int = 0
    ready: int = 0
    commit: str | None = None
    conditions: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """The children of one custom resource. ``services`` is empty for a WorkflowService."""

    workloads: tuple[ObservedWorkload, ...] = ()
    services: tuple[ObservedService, ...] = ()
    jobs: tuple[ObservedJob, ...] = ()
    claims: tuple[ObservedClaim, ...] = ()
