"""What the operator writes into ``status``; the builders of it are in ``status.py`` above."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from llamadeploy.spec.manifest_common import ManifestModel

Name = Annotated[str, StringConstraints(max_length=253)]
Url = Annotated[str, StringConstraints(max_length=2048)]
Image = Annotated[str, StringConstraints(max_length=1024)]
Count = Annotated[int, Field(ge=0)]
Generation = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


class Condition(ManifestModel):
    """One aspect of the state, as in every Kubernetes API."""

    type: str = Field(
        description="Aspect: Ready, Progressing, Degraded, ScalingLimited, Paused, Reconciling or"
        " Stalled.",
        min_length=1,
        max_length=316,
    )
    status: Literal["True", "False", "Unknown"] = Field(
        description="True, False, or Unknown while it cannot be told."
    )
    reason: str = Field(
        description="Why, in one word for programs; documented.",
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    )
    message: str = Field(
        description="Why, in words for people, with what to do about it.", max_length=32768
    )
    observed_generation: Generation | None = Field(
        None, description="metadata.generation for which this was found."
    )
    last_transition_time: datetime = Field(description="When the status last changed.")


class RuntimeStatus(ManifestModel):
    """The runtime that a Deployment stays with while the operator is upgraded."""

    image: Image | None = Field(None, description="Image of the runtime's pods.")
    template_revision: Count | None = Field(
        None, description="Revision of the pod templates; an upgrade alone does not change it."
    )
    version: str | None = Field(
        None, description="spec.version when the image was chosen.", max_length=63
    )
    redis_image: Image | None = Field(None, description="Image of managed Redis servers.")
    rabbitmq_image: Image | None = Field(None, description="Image of the managed RabbitMQ.")
    ui_image: Image | None = Field(None, description="Node.js image of the user interface.")


class Endpoints(ManifestModel):
    """Addresses inside the cluster."""

    control_plane: Url | None = Field(None, description="URL of the HTTP API.")
    queue: Url | None = Field(None, description="URL of the simple queue.")
    ui: Url | None = Field(None, description="URL of the user interface.")


class ServiceStatus(ManifestModel):
    """One service of a Deployment."""

    name: Name = Field(description="Name of the service on the wire.")
    workflow_service: Name | None = Field(None, description="Its WorkflowService object.")
    replicas: Count | None = Field(None, description="Workers there are.")
    ready_replicas: Count | None = Field(None, description="Workers that take tasks.")
    ready: bool | None = Field(None, description="Whether it is as it should be.")
    commit: str | None = Field(
        None, description="Commit of the code that runs, of a git source.", max_length=64
    )


class SourceStatus(ManifestModel):
    """The code that a service's pods run."""

    hash: str | None = Field(
        None, description="Changes with the source's specification.", max_length=64
    )
    commit: str | None = Field(None, description="Commit, of a git source.", max_length=64)


class AutoscalingStatus(ManifestModel):
    """How a service is scaled."""

    engine: Literal["operator", "keda"] = Field(description="Who scales.")
    min_replicas: Count = Field(description="Least number of workers that the queue allows.")
    max_replicas: Count = Field(description="Greatest number of workers that the queue allows.")
    desired_replicas: Count | None = Field(
        None, description="Workers by the last decision that changed something."
    )
    reason: str | None = Field(None, description="Of that decision, in one word.", max_length=64)
    message: str | None = Field(
        None, description="Of that decision, with the figures of its moment.", max_length=4096
    )


class ResourceStatus(ManifestModel):
    """What both kinds tell."""

    observed_generation: Generation | None = Field(
        None, description="metadata.generation that was evaluated last."
    )
    conditions: list[Condition] | None = Field(
        None, description="Aspects of the state, one of each type.", max_length=32
    )


class DeploymentStatus(ResourceStatus):
    """What was observed of a Deployment."""

    runtime: RuntimeStatus | None = Field(None, description="The runtime it stays with.")
    topic_namespace: str | None = Field(
        None, description="Prefix of the queue's topics.", max_length=512
    )
    endpoints: Endpoints | None = Field(None, description="Addresses inside the cluster.")
    services: list[ServiceStatus] | None = Field(
        None, description="The services, also those of WorkflowServices of their own, by name.",
        max_length=1000,
    )  # fmt: skip


class WorkflowServiceStatus(ResourceStatus):
    """What was observed of a WorkflowService."""

    service_name: Name | None = Field(None, description="Name of the service on the wire.")
    replicas: Count | None = Field(None, description="Workers there are; of the scale subresource.")
    ready_replicas: Count | None = Field(None, description="Workers that take tasks.")
    allowed_replicas: Count | None = Field(
        None, description="Workers that may run: spec.replicas, or fewer where the queue limits it."
    )
    selector: str | None = Field(
        None, description="Selects the workers' pods; of the scale subresource.", max_length=4096
    )
    autoscaling: AutoscalingStatus | None = Field(None, description="How it is scaled.")
    source: SourceStatus | None = Field(None, description="The code that the pods run.")
