"""Conditions of the custom resources and their reasons: a part of the API."""

from __future__ import annotations

from enum import StrEnum


class Condition(StrEnum):
    """Types of conditions. The last two are those of kstatus."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SCALING_LIMITED = "ScalingLimited"
    PAUSED = "Paused"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Reasons of conditions; each member's comment says when."""

    # All is well.
    READY = "AllReady"  # every child has its current generation and its replicas are ready
    UP_TO_DATE = "UpToDate"  # nothing is being changed
    HEALTHY = "Healthy"  # no pod has a problem
    NOT_LIMITED = "NotLimited"  # as many replicas as asked for may run
    RUNNING = "Running"  # not suspended
    RECONCILED = "Reconciled"  # the current generation was carried out

    # On the way.
    SUSPENDED = "Suspended"  # spec.suspend: no workers run, tasks queue
    ROLLING_OUT = "RollingOut"  # pods of the current template are being started
    RESOLVING_SOURCE = "ResolvingSource"  # a Job looks up commit and dependencies
    WAITING_FOR_SERVICES = "WaitingForServices"  # a WorkflowService is not ready yet
    DRAINING_SERVICE = "DrainingService"  # a removed service ends its tasks first

    # The pods' own reasons.
    IMAGE_PULL = "ImagePullFailed"  # an image cannot be pulled
    CRASH_LOOP = "CrashLoop"  # a container ends again and again
    UNSCHEDULABLE = "Unschedulable"  # no node takes a pod
    CONTAINER_CONFIG = "MissingSecretOrKey"  # a Secret, ConfigMap or key of it is not there
    CONTAINER_CREATE = "ContainerCreateFailed"  # the node cannot create a container
    PODS_REFUSED = "PodsRefused"  # quota, LimitRange or admission refuses pods
    PROGRESS_DEADLINE = "ProgressDeadlineExceeded"  # a rollout does not end
    VOLUME_PENDING = "VolumePending"  # a volume claim is not bound
    NOT_ENOUGH_REPLICAS = "ReplicasUnavailable"  # fewer ready than wanted, for no reason above
    SERVICE_DEGRADED = "ServiceDegraded"  # a WorkflowService has a problem

    # What a person has to change.
    INVALID_SPEC = "InvalidSpec"  # passes the schema and still cannot be carried out
    INVALID_POD_TEMPLATE = "InvalidPodTemplate"  # a podTemplate overlay cannot be merged
    SOURCE_FAILED = "SourceFailed"  # the resolver Job failed
    NAME_CONFLICT = "NameConflict"  # another object has the name of a child or service
    DEPLOYMENT_NOT_FOUND = "DeploymentNotFound"  # spec.deploymentRef names none
    DEPLOYMENT_INVALID = "DeploymentInvalid"  # the Deployment it belongs to has a bad spec
    APPLY_REFUSED = "ApplyRefused"  # the API server refuses a child
    STATE_NOT_SHARED = "StateNotShared"  # memory or sqlite with more than one control plane
    CLUSTER_ERROR = "ClusterError"  # the API server fails; tried again

    # Said once, in an Event.
    STATE_NOT_DURABLE = "StateNotDurable"  # no stateStore: a restart forgets sessions and tasks

    # Limits.
    DELIVERY_LIMIT = "DeliveryLimit"  # the delivery table allows fewer replicas
    KEDA_NOT_INSTALLED = "KedaNotInstalled"  # autoscaling.engine is keda, and there is none
    METRIC_UNAVAILABLE = "MetricUnavailable"  # the work is not known: the number stays
    TOO_MANY_REPLICAS = "TooManyReplicas"  # the work asks for more than maxReplicas

    # What an autoscaler did, in Events.
    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
