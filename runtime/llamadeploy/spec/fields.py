"""Types of values that both forms of file share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints

from llamadeploy.spec.names import ENV_NAME, QUANTITY, SERVICE_NAME, TOPIC_NAMESPACE

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Replicas = Annotated[int, Field(ge=0, le=1000)]
Concurrency = Annotated[int, Field(ge=1, le=10_000)]
Retries = Annotated[int, Field(ge=0, le=100)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
EnvName = Annotated[str, StringConstraints(pattern=ENV_NAME, max_length=253)]
ServiceName = Annotated[str, StringConstraints(pattern=SERVICE_NAME, max_length=128)]
TopicNamespace = Annotated[str, StringConstraints(pattern=TOPIC_NAMESPACE, max_length=128)]
ShortText = Annotated[str, StringConstraints(max_length=256)]


def _as_text(value: object) -> object:
    """A quantity may be written as a number: ``size: 1073741824``."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else value


Quantity = Annotated[
    str,
    StringConstraints(pattern=QUANTITY, max_length=32),
    BeforeValidator(_as_text),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
