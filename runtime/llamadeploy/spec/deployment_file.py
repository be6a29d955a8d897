"""The LlamaDeploy 0.8.1 deployment file, as written: its models, with the keys added since.

Keys are hyphenated at the top and in a service, and snake_case in ``control-plane`` and
``message-queue``. Numbers may be written as text, as 0.8.1 accepts them.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llamadeploy.spec.fields import Concurrency, EnvName, Port, Replicas, Retries, Seconds, Text
from llamadeploy.spec.names import DEPLOYMENT_NAME, TOPIC_NAMESPACE, WORKFLOW_PATH
from llamadeploy.spec.validation import problem_error


class FileModel(BaseModel):
    """Base: hyphenated keys, unknown ones are errors."""

    model_config = ConfigDict(
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        hide_input_in_errors=True,
    )


class SnakeModel(BaseModel):
    """Base of the two sections whose keys are snake_case."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ControlPlaneSection(SnakeModel):
    """``control-plane``."""

    host: str | None = Field(None, description="Address to bind.")
    port: Port | None = Field(None, description="TCP port to bind.")
    internal_host: str | None = Field(None, description="Address to bind, where it differs.")
    internal_port: Port | None = Field(None, description="Port to bind, where it differs.")
    cors_origins: list[Text] | None = Field(None, description="Origins allowed by CORS.")
    topic_namespace: str | None = Field(
        None, description="Prefix of the queue's topics.", pattern=TOPIC_NAMESPACE
    )
    state_store_uri: str | None = Field(None, description="Address of the state store.", repr=False)
    use_tls: bool = Field(False, description="Clients reach the control plane by HTTPS.")
    services_store_key: str = Field("services", description="Reported by GET /.")
    tasks_store_key: str = Field("tasks", description="Reported by GET /.")
    session_store_key: str = Field("sessions", description="Reported by GET /.")
    step_interval: Seconds = Field(0.1, description="Reported by GET /, seconds.")
    running: bool = Field(True, description="Reported by GET /.")


class SimpleQueueSection(SnakeModel):
    """``message-queue`` of type ``simple``."""

    type: Literal["simple"]
    host: str = Field("127.0.0.1", description="Address of the queue's server.")
    port: Port = Field(8001, description="TCP port of the queue's server.")
    client_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the HTTP client.", repr=False
    )
    raise_exceptions: bool = Field(False, description="Raise a handler's exceptions.")
    use_ssl: bool = Field(False, description="Reach the queue by HTTPS.")


class AddressSection(SnakeModel):
    """What the sections of brokers with an address share."""

    url: str | None = Field(None, description="Address of the broker.", repr=False)
    host: str | None = Field(None, description="The broker's host, instead of a URL.")
    port: Port | None = Field(None, description="The broker's port, with host.")


class RedisQueueSection(AddressSection):
    """``message-queue`` of type ``redis``."""

    type: Literal["redis"]
    db: Annotated[int, Field(ge=0)] | None = Field(None, description="Database number, with host.")
    username: str | None = Field(None, description="User, with host.")
    password: str | None = Field(None, description="Password, with host.", repr=False)
    ssl: bool | None = Field(None, description="Connect by TLS, with host.")
    exclusive_mode: bool = Field(
        False, description="Replicas of a service compete for tasks; false: every one runs each."
    )


class RabbitMQQueueSection(AddressSection):
    """``message-queue`` of type ``rabbitmq``."""

    type: Literal["rabbitmq"]
    exchange_name: Text | None = Field(None, description="Exchange, by default llama-deploy.")
    username: str | None = Field(None, description="User, with host.")
    password: str | None = Field(None, description="Password, with host.", repr=False)
    vhost: str | None = Field(None, description="Virtual host, with host.")
    secure: bool | None = Field(None, description="Connect by TLS, with host.")


class KafkaQueueSection(AddressSection):
    """``message-queue`` of type ``kafka``."""

    type: Literal["kafka"]


class AWSQueueSection(SnakeModel):
    """``message-queue`` of type ``aws``."""

    type: Literal["aws"]
    aws_region: Text = Field("us-east-1", description="AWS region.")
    aws_access_key_id: str | None = Field(None, description="Access key id.", repr=False)
    aws_secret_access_key: str | None = Field(None, description="Secret access key.", repr=False)


class SolaceQueueSection(SnakeModel):
    """``message-queue`` of type ``solace``: read, so that its refusal can name the way out."""

    type: Literal["solace"]
    host: str = Field("", description="Host.")
    vpn_name: str = Field("", description="Message VPN.")
    username: str = Field("", description="User.")
    password: str = Field("", description="Password.", repr=False)
    host_secured: str = Field("", description="Host for TLS.")
    is_queue_temporary: bool = Field(True, description="Temporary queues.")


QUEUE_SECTIONS: dict[str, type[SnakeModel]] = {
    "simple": SimpleQueueSection,
    "redis": RedisQueueSection,
    "rabbitmq": RabbitMQQueueSection,
    "kafka": KafkaQueueSection,
    "aws": AWSQueueSection,
    "solace": SolaceQueueSection,
}


class SourceSection(FileModel):
    """``source`` of a service."""

    type: Literal["git", "local", "docker"] = Field(description="Kind of source: local, git.")
    name: str | None = Field(None, description="Folder or URL.", repr=False, min_length=1)
    location: str | None = Field(None, description="The same as name.", repr=False, min_length=1)

    @model_validator(mode="after")
    def _one_place(self) -> SourceSection:
        if self.name is None and self.location is None:
            raise problem_error(
                "has no 'name'", "add name: the folder (local) or the URL (git) of the code"
            )
        return self

    @model_validator(mode="after")
    def _inside(self) -> SourceSection:
        place = PurePosixPath(self.name or self.location or "")
        if self.type == "local" and (place.is_absolute() or ".." in place.parts):
            raise problem_error(
                f"the folder {str(place)!r} is not below the deployment file's",
                "write a path relative to the deployment file, without '..'",
            )
        return self


class ComponentSection(FileModel):
    """The keys that a service and a UI share."""

    name: str = Field(description="The name people read.", min_length=1)
    source: SourceSection = Field(description="Where the code is: a mapping with type and name.")
    path: str | None = Field(
        None,
        description="The workflow: 'dir/module:attribute'.",
        pattern=WORKFLOW_PATH,
    )
    import_path: str | None = Field(None, description="The same as path.", pattern=WORKFLOW_PATH)
    host: str | None = Field(None, description="Address to bind.")
    port: Port | None = Field(None, description="TCP port to bind.")
    env: dict[EnvName, str] | None = Field(None, description="Environment variables.", repr=False)
    env_files: list[Text] | None = Field(None, description="dotenv files; they override env.")
    python_dependencies: list[Text] | None = Field(None, description="Arguments of pip install.")
    ts_dependencies: dict[str, str] | None = Field(None, description="npm package -> version.")


class UiSection(ComponentSection):
    """``ui``."""

    path: str | None = Field(None, description="Folder of package.json in the source.")


class ServiceSection(ComponentSection):
    """One of ``services``."""

    description: str | None = Field(None, description="What the service does.")
    replicas: Replicas | None = Field(None, description="Number of workers, by default 1.")
    max_concurrent_tasks: Concurrency = Field(
        8, description="Tasks that one worker runs at a time."
    )
    session_policy: Literal["enqueue", "parallel", "reject"] = Field(
        "enqueue", description="What a session's second task does while the first is unfinished."
    )
    timeout: Seconds | None = Field(None, description="Limit of a run, seconds without waiting.")
    wait_timeout: Seconds | None = Field(None, description="Limit of a wait for a human, seconds.")
    queue_timeout: Seconds | None = Field(None, description="Limit of being queued, seconds.")
    max_retries: Retries = Field(3, description="Reruns after a lost worker.")
    retry_on_error: bool = Field(False, description="Rerun after an exception too.")
    broadcast: bool = Field(False, description="Every replica runs every task (redis).")

    @model_validator(mode="after")
    def _path_given(self) -> ServiceSection:
        if self.path is None and self.import_path is None:
            raise problem_error("has no 'path'", "add path: 'dir/module:attribute'")
        return self


class DeploymentFile(FileModel):
    """A whole deployment file; ``message-queue`` is checked by its type's section."""

    name: str = Field(description="The deployment's name.", pattern=DEPLOYMENT_NAME)
    control_plane: ControlPlaneSection = Field(
        description="A mapping; `control-plane: {}` takes the defaults."
    )
    message_queue: dict[str, Any] | None = Field(
        None, description="The message queue, by default simple.", repr=False
    )
    default_service: str | None = Field(None, description="Service of tasks that name none.")
    services: dict[str, ServiceSection] = Field(description="A mapping of services by name.")
    ui: UiSection | None = Field(None, description="The user interface.")

    @field_validator("control_plane", mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        return {} if value is None else value
