"""A deployment as the runtime reads it: the same for both forms of file.

Values that may hold credentials are kept out of ``repr()``; whoever logs a model logs none.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llamadeploy.types import ServiceOptions, SessionPolicy

QueueType = Literal["simple", "redis", "rabbitmq", "kafka", "aws", "solace"]
SourceType = Literal["local", "git", "image", "configmap"]


class SpecModel(BaseModel):
    """Base: unknown fields are errors, and a validation error never shows the value."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ControlPlaneSpec(SpecModel):
    """The control plane; None means that whoever runs the deployment decides."""

    host: str | None = None
    port: int | None = None
    internal_host: str | None = None
    internal_port: int | None = None
    cors_origins: list[str] | None = None
    topic_namespace: str | None = None
    state_store_uri: str | None = Field(default=None, repr=False)
    use_tls: bool = False
    services_store_key: str = "services"
    tasks_store_key: str = "tasks"
    session_store_key: str = "sessions"
    step_interval: float = 0.1
    running: bool = True


class QueueSpec(SpecModel):
    """The message queue.

    ``options`` are the keyword arguments of the type's ``...MessageQueueConfig`` that the file
    gives. The parts of an address (host, port, user, password, ...) are folded into ``url``, except
    for ``simple`` and ``solace``.
    """

    type: QueueType = "simple"
    options: dict[str, Any] = Field(default_factory=dict, repr=False)


class SourceSpec(SpecModel):
    """Where a service's code is.

    Attributes:
        name: ``local``: the folder, relative to the deployment file; ``configmap``: its name.
        url: ``git``: what to clone.
        ref: ``git``: branch, tag or commit; None: the default branch.
        image: ``image``: the container image with the code; None: the one of the pod template.
        files: ``configmap``: relative path -> text, from the ConfigMap of the same file.
        credentials_secret: ``git``: name of the Secret with the credentials.
        credentials: ``git``: the data of that Secret, or user and password of the file's URL.
        known_hosts: ``git``: the known_hosts file's text, for SSH.
    """

    type: SourceType
    name: str | None = None
    url: str | None = Field(default=None, repr=False)
    ref: str | None = None
    image: str | None = None
    files: dict[str, str] = Field(default_factory=dict, repr=False)
    credentials_secret: str | None = None
    credentials: dict[str, str] = Field(default_factory=dict, repr=False)
    known_hosts: str | None = Field(default=None, repr=False)


class ComponentSpec(SpecModel):
    """What a service and a UI have in common.

    Attributes:
        env: variables and values; those of ``secret_env`` (sorted) came from a Secret.
        env_files: dotenv files in the source; they override ``env``.
        python_dependencies: arguments of ``pip install``.
        ts_dependencies: npm package -> version.
    """

    name: str
    source: SourceSpec
    path: str | None = None
    host: str | None = None
    port: int | None = None
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    secret_env: list[str] = Field(default_factory=list)
    env_files: list[str] = Field(default_factory=list)
    python_dependencies: list[str] = Field(default_factory=list)
    ts_dependencies: dict[str, str] = Field(default_factory=dict)


class UiSpec(ComponentSpec):
    """The deployment's user interface."""


class ServiceSpec(ComponentSpec):
    """One service; ``name`` is its name on the wire. Times are seconds, None means no limit."""

    path: str
    description: str | None = None
    replicas: int = 1
    max_concurrent_tasks: int = 8
    session_policy: SessionPolicy = SessionPolicy.ENQUEUE
    timeout: float | None = None
    wait_timeout: float | None = None
    queue_timeout: float | None = None
    max_retries: int = 3
    retry_on_error: bool = False
    broadcast: bool = False

    @property
    def options(self) -> ServiceOptions:
        """The part that is registered with the control plane."""
        return ServiceOptions(**self.model_dump(include=set(ServiceOptions.model_fields)))


class DeploymentSpec(SpecModel):
    """A whole deployment.

    Attributes:
        namespace: the manifest's namespace; a laptop has none and ignores it.
        services: by name, in the file's order.
        ignored: field paths that have no effect on a laptop, to be told to the user.
        cluster_only: those fields' values, nested as below a manifest's ``spec`` but with services
            by name: what ``to_manifests`` writes back.
    """

    name: str
    namespace: str | None = None
    control_plane: ControlPlaneSpec = Field(default_factory=ControlPlaneSpec)
    message_queue: QueueSpec = Field(default_factory=QueueSpec)
    default_service: str | None = None
    services: dict[str, ServiceSpec] = Field(default_factory=dict)
    ui: UiSpec | None = None
    ignored: list[str] = Field(default_factory=list)
    cluster_only: dict[str, Any] = Field(default_factory=dict, repr=False)
