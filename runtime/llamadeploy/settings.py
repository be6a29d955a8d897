"""What processes read from their environment, and the ports they listen on.

In a pod nothing but ``LLAMADEPLOY_*`` is read, so that a user's ``REDIS_URL`` (or a service link
of Kubernetes) cannot change where a worker connects to. Whoever starts such a process writes its
environment with :meth:`PodSettings.to_environ`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.types import SessionPolicy

API_SERVER_PORT = 4501
HTTP_PORT = 8000
QUEUE_PORT = 8001
METRICS_PORT = 9090

PREFIX = "LLAMADEPLOY_"
LogFormat = Literal["text", "json"]

_JSON_FIELDS = frozenset({"queue_options", "source", "python_dependencies", "cors_origins"})
_SettingsT = TypeVar("_SettingsT", bound=BaseSettings)

_SECONDS = "a number of seconds above 0 (leave it out for no limit)"
_TRUTH = "true or false"


class PodSettings(BaseModel):
    """The environment of one process of a deployment; field ``x`` is ``LLAMADEPLOY_X``.

    Each description says what is right, and is what an error shows. ``namespace`` is the whole
    prefix of topics and keys (``<namespace>.<name>`` in a cluster, ``llama_deploy.<deployment>``
    on a laptop), used as it stands.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    deployment: str = Field("default", description="the deployment's name")
    namespace: str = Field("llama_deploy", description="the prefix of topics and keys")
    service: str | None = Field(None, description="the service's name on the wire")
    replica: str | None = Field(None, description="this replica's name, such as the pod's")
    worker_id: str | None = Field(None, description="an id unique to this process")
    queue_type: str = Field("simple", description="a message queue type, such as simple")
    queue_url: SecretStr | None = Field(None, description="the message queue's URL")
    queue_password: SecretStr | None = Field(
        None, description="the password in queue_url, where Kubernetes puts it in from here"
    )
    queue_access_key_id: SecretStr | None = Field(
        None, description="the access key id in queue_options, put in the same way"
    )
    queue_secret_access_key: SecretStr | None = Field(
        None, description="the secret access key in queue_options, put in the same way"
    )
    queue_options: dict[str, Any] = Field(
        default_factory=dict, description='a JSON object, such as {"exclusive_mode": true}'
    )
    state_store_uri: SecretStr | None = Field(None, description="the state store's URI")
    state_store_password: SecretStr | None = Field(
        None, description="the password in state_store_uri, put in the same way"
    )
    control_plane_url: str | None = Field(None, description="the control plane's base URL")
    default_service: str | None = Field(None, description="the name of a service")
    cors_origins: list[str] | None = Field(
        None, description='a JSON list of origins of browsers, such as ["https://example.org"]'
    )
    workflow_path: str | None = Field(None, description="module:attribute of the workflow")
    source_dir: Path | None = Field(None, description="the folder with the workflow's code")
    signing_keys: SecretStr | None = Field(
        None, description="<id>:<base64url key>, more of them separated by commas"
    )
    api_token: SecretStr | None = Field(None, description="the token of the deployment's API")
    max_concurrent_tasks: int = Field(8, ge=1, description="a whole number of 1 or more")
    session_policy: SessionPolicy = Field(
        SessionPolicy.ENQUEUE, description="enqueue, parallel or reject"
    )
    task_timeout_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description=_SECONDS
    )
    wait_timeout_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description=_SECONDS
    )
    queue_timeout_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description=_SECONDS
    )
    drain_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="a number of seconds above 0"
    )
    retention_seconds: float | None = Field(None, gt=0, allow_inf_nan=False, description=_SECONDS)
    max_retries: int = Field(3, ge=0, description="a whole number of 0 or more")
    retry_on_error: bool = Field(False, description=_TRUTH)
    broadcast: bool = Field(False, description=_TRUTH)
    source: dict[str, Any] | None = Field(
        None, description='a JSON object with one source, such as {"git": {"url": "..."}}'
    )
    python_dependencies: list[str] = Field(
        default_factory=list, description='a JSON list of pip arguments, such as ["httpx"]'
    )
    index_url: SecretStr | None = Field(None, description="the URL of a Python package index")
    log_format: LogFormat = Field("text", description="text or json")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    parent_fd: int | None = Field(
        None, ge=0, description="the number of an open file descriptor; its end means: drain"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``environ`` (the process's own by default); a blank value counts as not set.

        Unknown ``LLAMADEPLOY_*`` names are left alone: a newer release may have written them.

        Raises:
            ConfigurationError: lists every wrong variable with what would be right.
        """
        environ = os.environ if environ is None else environ
        raw: dict[str, Any] = {}
        problems: list[str] = []
        for name in cls.model_fields:
            text = environ.get(variable(name), "").strip()
            if not text:
                continue
            try:
                raw[name] = _decode(name, text)
            except ValueError:
                problems.append(_complaint(cls, name, text))
        try:
            settings = cls.model_validate(raw)
        except ValidationError as error:
            wrong = {str(e["loc"][0]) for e in error.errors(include_input=False)}
            problems += [_complaint(cls, n, environ[variable(n)]) for n in raw if n in wrong]
        if problems:
            raise ConfigurationError("; ".join(problems))
        return settings

    def to_environ(self) -> dict[str, str]:
        """The variables that :meth:`from_env` reads these settings from, secrets in the clear."""
        return {
            variable(name): _encode(name, getattr(self, name))
            for name in type(self).model_fields
            if getattr(self, name) is not None
        }

    def require(self, *fields: str) -> None:
        """Check that the fields this process cannot do without are set.

        Raises:
            ConfigurationError: lists the variables to set.
        """
        missing = [name for name in fields if getattr(self, name) is None]
        if missing:
            raise ConfigurationError(
                "; ".join(
                    f"{variable(name)} is not set: set it to "
                    f"{type(self).model_fields[name].description}"
                    for name in missing
                )
            )


class ApiserverSettings(BaseSettings):
    """The API server's settings (``LLAMA_DEPLOY_APISERVER_*``), as in LlamaDeploy 0.8.1."""

    model_config = SettingsConfigDict(env_prefix="LLAMA_DEPLOY_APISERVER_")

    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(API_SERVER_PORT, ge=0, le=65535, description="a port from 0 to 65535")
    rc_path: Path = Field(
        Path("./.llama_deploy_rc"), description="a folder of deployment files to load at the start"
    )
    deployments_path: Path | None = Field(
        None, description="the folder under which deployments get their work directories"
    )
    use_tls: bool = Field(False, description=_TRUTH)
    prometheus_enabled: bool = Field(True, description=_TRUTH)
    prometheus_port: int = Field(9000, ge=0, le=65535, description="a port from 0 to 65535")

    @property
    def url(self) -> str:
        """The base URL of the server, without a slash at the end."""
        scheme = "https" if self.use_tls else "http"
        return f"{scheme}://{self.host}" + ("" if self.port == 80 else f":{self.port}")


def variable(field: str) -> str:
    """The environment variable of a field of :class:`PodSettings`."""
    return PREFIX + field.upper()


def forget_secrets(environ: MutableMapping[str, str]) -> None:
    """Take the variables that may hold credentials out of ``environ``, once they were read: user
    code, and the programs it starts, have no use for them."""
    for name, field in PodSettings.model_fields.items():
        if SecretStr in (field.annotation, *get_args(field.annotation)) or name in _JSON_FIELDS:
            environ.pop(variable(name), None)


def load_settings(settings: type[_SettingsT], **values: Any) -> _SettingsT:
    """Make a settings object from its environment prefix, with arguments on top.

    Raises:
        ConfigurationError: names the variable (or argument) and what was wrong.
    """
    try:
        return settings(**values)
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        problems = []
        for item in error.errors(include_input=False, include_url=False):
            name = ".".join(map(str, item["loc"]))
            label = name if name.split(".")[0] in values else f"{prefix}{name}".upper()
            problems.append(f"{label}: {item['msg']}")
        # From None: pydantic's own text shows the input, which may be a password.
        raise ConfigurationError("; ".join(problems)) from None
    except SettingsError as error:
        raise ConfigurationError(
            f"{settings.__name__}: {error}; the variable must hold JSON"
        ) from None


def _decode(name: str, text: str) -> Any:
    if name in _JSON_FIELDS:
        return json.loads(text)
    return text.upper() if name == "log_level" else text


def _encode(name: str, value: Any) -> str:
    if name in _JSON_FIELDS:
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _complaint(cls: type[BaseModel], name: str, text: str) -> str:
    field = cls.model_fields[name]
    secret = SecretStr in (field.annotation, *get_args(field.annotation))
    # JSON values may hold credentials (a git source, a broker's options): not shown either.
    shown = "is wrong" if secret or name in _JSON_FIELDS else f"is {text!r}"
    return f"{variable(name)} {shown}: it must be {field.description}"
