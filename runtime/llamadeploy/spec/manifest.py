"""The custom resources ``Deployment`` and ``WorkflowService`` of ``llamadeploy.io/v1alpha1``.

These models are what a manifest may hold; the runtime reads them through ``DeploymentSpec``. Field
descriptions are the ones that ``kubectl explain`` shows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from llamadeploy.spec.autoscaling import Autoscaling
from llamadeploy.spec.fields import (
    Concurrency,
    Port,
    Quantity,
    Replicas,
    Retries,
    Seconds,
    ServiceName,
    ShortText,
    Text,
    TopicNamespace,
)
from llamadeploy.spec.manifest_common import (
    EnvVar,
    FileSource,
    LocalObjectReference,
    ManifestModel,
    ObjectMeta,
    PodTemplate,
    ResourceName,
    SecretSource,
    require_one,
)
from llamadeploy.spec.names import WORKFLOW_PATH
from llamadeploy.spec.validation import problem_error

GROUP = "llamadeploy.io"
API_VERSION = f"{GROUP}/v1alpha1"

SOLACE_CURE = "use redis, rabbitmq, kafka or aws, or simple without a broker"


class Storage(ManifestModel):
    """A persistent volume."""

    size: Quantity = Field("1Gi", description="Size of the volume, by default 1Gi; immutable.")
    storage_class_name: ResourceName | None = Field(
        None, description="Storage class; omitted: the cluster's default. Immutable."
    )


class Managed(ManifestModel):
    """A single-node server that the operator runs."""

    storage: Storage | None = Field(None, description="Its persistent volume.")


class StateStore(ManifestModel):
    """Where the control plane keeps its state."""

    uri: SecretStr | None = Field(None, description="Address of the store.", max_length=2048)
    uri_from: SecretSource | None = Field(
        None, description="Secret with the address of the store, instead of uri."
    )
    managed: Managed | None = Field(
        None, description="A store that the operator runs, instead of an address."
    )

    @model_validator(mode="after")
    def _one(self) -> StateStore:
        require_one(self, ("uri", "uri_from", "managed"))
        return self


class ControlPlane(ManifestModel):
    """The HTTP API of the deployment."""

    replicas: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="Number of pods, by default 1."
    )
    state_store: StateStore | None = Field(
        None, description="Where state is kept; omitted: in memory, on a laptop SQLite."
    )
    topic_namespace: TopicNamespace | None = Field(
        None, description="Prefix of the queue's topics; omitted: the namespace and name."
    )
    cors_origins: list[Text] | None = Field(
        None, description="Origins from which browsers may call; ['*'] for all.", max_length=100
    )
    pod_template: PodTemplate | None = Field(None, description="Overlay of the pod template.")


class Orchestrator(ManifestModel):
    """Processes that move tasks on; inside the control plane where nothing is shared."""

    replicas: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="Number of pods, by default 1."
    )
    pod_template: PodTemplate | None = Field(None, description="Overlay of the pod template.")


class SimpleQueue(ManifestModel):
    """The queue inside the control plane: in memory, nothing to set."""


class Broker(ManifestModel):
    """What brokers with an address share."""

    url: SecretStr | None = Field(None, description="Address of the broker.", max_length=2048)
    url_from: SecretSource | None = Field(
        None, description="Secret with the address of the broker, instead of url."
    )

    @model_validator(mode="after")
    def _one(self) -> Broker:
        require_one(self, ("url", "url_from"), at_least=False)
        return self

    @property
    def addressed(self) -> bool:
        """Whether it names a broker outside of the deployment."""
        return self.url is not None or self.url_from is not None


class RedisQueue(Broker):
    """Redis as message queue."""

    exclusive_mode: bool | None = Field(
        None,
        description="true: replicas of a service compete for tasks; false, the default: every"
        " replica runs every task.",
    )


class RabbitMQQueue(Broker):
    """RabbitMQ as message queue."""

    exchange_name: Text | None = Field(None, description="Exchange, by default llama-deploy.")


class KafkaQueue(Broker):
    """Kafka as message queue; the address is host:port."""


class AWSQueue(ManifestModel):
    """Amazon SQS as message queue."""

    region: Text | None = Field(None, description="AWS region, by default us-east-1.")
    access_key_id_from: SecretSource | None = Field(
        None, description="Secret with the access key id; omitted: the pod's role."
    )
    secret_access_key_from: SecretSource | None = Field(
        None, description="Secret with the secret access key; omitted: the pod's role."
    )


class MessageQueue(ManifestModel):
    """The message queue: its type, and the section of that type."""

    type: Literal["simple", "redis", "rabbitmq", "kafka", "aws"] = Field(
        description="Type of queue: simple, redis, rabbitmq, kafka or aws; immutable."
    )
    managed: Managed | None = Field(
        None, description="A single-node broker that the operator runs, instead of an address."
    )
    simple: SimpleQueue | None = Field(None, description="Settings of type simple.")
    redis: RedisQueue | None = Field(None, description="Settings of type redis.")
    rabbitmq: RabbitMQQueue | None = Field(None, description="Settings of type rabbitmq.")
    kafka: KafkaQueue | None = Field(None, description="Settings of type kafka.")
    aws: AWSQueue | None = Field(None, description="Settings of type aws.")

    @field_validator("type", mode="before")
    @classmethod
    def _no_solace(cls, value: Any) -> Any:
        if value == "solace":
            raise problem_error("solace is not supported", SOLACE_CURE)
        return value

    @model_validator(mode="after")
    def _fits_type(self) -> MessageQueue:
        for kind in ("simple", "redis", "rabbitmq", "kafka", "aws"):
            section = getattr(self, kind)
            if section is not None and kind != self.type:
                raise problem_error(
                    f"has settings of '{kind}', but the type is '{self.type}'",
                    f"remove '{kind}', or write type: {kind}",
                )
            if self.managed is not None and isinstance(section, Broker) and section.addressed:
                raise problem_error(
                    f"has managed and an address in '{kind}'",
                    "keep managed, or the address of a broker of your own",
                )
        if self.managed is not None and self.type not in ("redis", "rabbitmq"):
            raise problem_error(
                f"managed cannot be had for type '{self.type}'", "use redis or rabbitmq"
            )
        self._has_address()
        return self

    def _has_address(self) -> None:
        if self.type in ("simple", "aws") or self.managed is not None:
            return
        section: Broker | None = getattr(self, self.type)
        if section is None or not section.addressed:
            managed = "" if self.type == "kafka" else "managed, "
            raise problem_error(
                f"no address of a {self.type} broker",
                f"give {managed}{self.type}.url or {self.type}.urlFrom",
            )


class GitSource(ManifestModel):
    """Code in a git repository."""

    url: SecretStr = Field(description="What to clone: an HTTPS or SSH URL.", max_length=2048)
    ref: Text | None = Field(None, description="Branch, tag or commit; omitted: the default one.")
    credentials_secret_ref: LocalObjectReference | None = Field(
        None, description="Secret with username and password, or ssh-privatekey."
    )
    known_hosts_from: FileSource | None = Field(
        None, description="Where the known_hosts file for SSH comes from."
    )


class ImageSource(ManifestModel):
    """Code in a container image."""

    image: Text | None = Field(
        None, description="The image with the code; omitted: the one of the pod template."
    )


class KeyToPath(ManifestModel):
    """Where a key of a ConfigMap is put."""

    key: str = Field(description="Key in the ConfigMap's data.", min_length=1, max_length=253)
    path: str = Field(
        description="Relative path of the file.",
        max_length=1024,
        pattern=r"^[^/].*$",
    )


class ConfigMapSource(ManifestModel):
    """Code in a ConfigMap: each key is a file."""

    name: ResourceName = Field(description="Name of the ConfigMap.")
    items: list[KeyToPath] | None = Field(
        None, description="Keys to take and their paths; omitted: every key.", max_length=500
    )


class Source(ManifestModel):
    """Where a service's code is: one of git, image, configMap."""

    git: GitSource | None = Field(None, description="Code in a git repository.")
    image: ImageSource | None = Field(None, description="Code in a container image.")
    config_map: ConfigMapSource | None = Field(None, description="Code in a ConfigMap.")

    @model_validator(mode="after")
    def _one(self) -> Source:
        require_one(self, ("git", "image", "config_map"))
        return self


class Component(ManifestModel):
    """What a service and a UI share."""

    source: Source = Field(description="Where the code is: one of git, image, configMap.")
    env: list[EnvVar] | None = Field(None, description="Environment variables.", max_length=500)
    env_files: list[Text] | None = Field(
        None, description="dotenv files in the source; they override env.", max_length=50
    )
    python_dependencies: list[Text] | None = Field(
        None, description="What pip installs before the code is run.", max_length=200
    )
    ts_dependencies: dict[str, ShortText] | None = Field(
        None, description="npm package -> version.", max_length=200
    )
    pod_template: PodTemplate | None = Field(None, description="Overlay of the pod template.")


class ServiceFields(Component):
    """A service, apart from its name: the same inline and as a WorkflowService."""

    path: str = Field(
        description="The workflow: 'dir/module:attribute'.", pattern=WORKFLOW_PATH, max_length=1024
    )
    description: str | None = Field(None, description="What the service does.", max_length=4096)
    replicas: Replicas | None = Field(
        None, description="Number of workers; omitted: left to kubectl scale and autoscalers."
    )
    autoscaling: Autoscaling | None = Field(
        None, description="As many workers as the work needs; instead of replicas."
    )
    max_concurrent_tasks: Concurrency | None = Field(
        None, description="Tasks that one worker runs at a time, by default 8."
    )
    session_policy: Literal["enqueue", "parallel", "reject"] | None = Field(
        None,
        description="What a session's second task does while the first one is unfinished, by"
        " default enqueue.",
    )
    timeout_seconds: Seconds | None = Field(
        None, description="Limit of a task's run, without the time it waits; omitted: none."
    )
    wait_timeout_seconds: Seconds | None = Field(
        None, description="Limit of a task's wait for an answer; omitted: none."
    )
    queue_timeout_seconds: Seconds | None = Field(
        None, description="Limit of a task's time in the queue; omitted: none."
    )
    max_retries: Retries | None = Field(
        None, description="Reruns of a task whose worker was lost, by default 3."
    )
    retry_on_error: bool | None = Field(
        None, description="Whether an exception is retried like a lost worker, by default false."
    )
    broadcast: bool | None = Field(
        None, description="Every replica runs every task, on purpose (redis), by default false."
    )

    @model_validator(mode="after")
    def _scales_what_competes(self) -> ServiceFields:
        if self.autoscaling is not None and self.broadcast:
            raise problem_error(
                "autoscaling: with broadcast every worker runs every task, and more of them help"
                " none",
                "write replicas instead",
            )
        return self


class InlineService(ServiceFields):
    """A service of a Deployment."""

    name: ServiceName = Field(description="Name of the service on the wire.")

    @model_validator(mode="after")
    def _scaled_once(self) -> InlineService:
        # Not of a WorkflowService: there autoscalers write replicas.
        require_one(self, ("replicas", "autoscaling"), at_least=False)
        return self


class Ui(Component):
    """The user interface of the deployment."""

    name: ServiceName = Field(description="Name of the user interface.")
    path: str | None = Field(
        None, description="Folder of package.json in the source.", max_length=1024
    )
    port: Port | None = Field(None, description="TCP port on which it listens.")


class DeploymentManifestSpec(ManifestModel):
    """What a Deployment should be."""

    control_plane: ControlPlane | None = Field(None, description="The HTTP API.")
    orchestrator: Orchestrator | None = Field(None, description="Processes that move tasks on.")
    message_queue: MessageQueue | None = Field(
        None, description="The message queue, by default of type simple."
    )
    default_service: ServiceName | None = Field(
        None,
        description="Service of tasks that name none: one of services, or where there are none a"
        " WorkflowService of this Deployment.",
    )
    services: list[InlineService] | None = Field(
        None, description="The services; their names differ.", max_length=100
    )
    ui: Ui | None = Field(None, description="The user interface.")
    deletion_policy: Literal["Delete", "Retain"] | None = Field(
        None, description="What becomes of volumes and generated Secrets, by default Delete."
    )
    suspend: bool | None = Field(
        None, description="true: no workers run; tasks queue. By default false."
    )
    version: str | None = Field(None, description="Release of the runtime.", max_length=63)
    signing_key_from: SecretSource | None = Field(
        None,
        description="Secret with the keys that sign contexts; omitted: one is generated.",
    )

    @model_validator(mode="after")
    def _shares_what_it_can(self) -> DeploymentManifestSpec:
        """Several processes need a queue and a store that all of them reach."""
        unshared = self._unshared()
        if unshared is None:
            return self
        what, cure = unshared
        if self.orchestrator is not None:
            raise problem_error(
                f"orchestrator: with {what} the control plane orchestrates",
                f"remove orchestrator, or write {cure}",
            )
        if self.control_plane is not None and (self.control_plane.replicas or 1) > 1:
            raise problem_error(
                f"controlPlane.replicas: {what} belongs to one control plane",
                f"write 1, or write {cure}",
            )
        return self

    def _unshared(self) -> tuple[str, str] | None:
        """What only one process has, and what to take instead."""
        if self.message_queue is None or self.message_queue.type == "simple":
            return "the simple queue", "messageQueue.type redis, rabbitmq, kafka or aws"
        store = self.control_plane.state_store if self.control_plane else None
        uri = store.uri.get_secret_value() if store and store.uri else None
        if store is None or (uri is not None and uri.startswith(("memory:", "sqlite:"))):
            cure = "controlPlane.stateStore with managed, or the address of redis or postgresql"
            return "state in memory or SQLite", cure
        return None


class WorkflowServiceManifestSpec(ServiceFields):
    """What a WorkflowService should be."""

    deployment_ref: LocalObjectReference = Field(
        description="The Deployment it belongs to, in the same namespace; immutable."
    )
    service_name: ServiceName | None = Field(
        None, description="Name on the wire; omitted: the object's."
    )


class CustomResource(ManifestModel):
    """What the custom resources share."""

    api_version: Literal["llamadeploy.io/v1alpha1"] = Field(description="The API's version.")
    metadata: ObjectMeta = Field(description="Standard object metadata.")
    status: dict[str, Any] | None = Field(None, description="What was observed; read only.")


class DeploymentManifest(CustomResource):
    """``kind: Deployment``."""

    kind: Literal["Deployment"] = Field(description="Deployment.")
    spec: DeploymentManifestSpec = Field(description="What the Deployment should be.")


class WorkflowServiceManifest(CustomResource):
    """``kind: WorkflowService``."""

    kind: Literal["WorkflowService"] = Field(description="WorkflowService.")
    spec: WorkflowServiceManifestSpec = Field(description="What the WorkflowService should be.")
