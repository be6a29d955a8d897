"""Types of values that both forms of file share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from llamadeploy.spec.names import ENV_NAME

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Replicas = Annotated[int, Field(ge=0, le=1000)]
Concurrency = Annotated[int, Field(ge=1, le=10_000)]
Retries = Annotated[int, Field(ge=0, le=100)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
EnvName = Annotated[str, StringConstraints(pattern=ENV_NAME, max_length=253)]
