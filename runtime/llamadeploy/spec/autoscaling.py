"""Autoscaling of a service's workers, as a manifest says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from llamadeploy.spec.fields import Seconds
from llamadeploy.spec.manifest_common import ManifestModel, require_one
from llamadeploy.spec.validation import problem_error

MAX_REPLICAS = 1000

Floor = Annotated[int, Field(ge=0, le=MAX_REPLICAS)]
Cron = Annotated[str, StringConstraints(min_length=9, max_length=100)]


class ScalingPolicy(ManifestModel):
    """How much may change in a period."""

    type: Literal["Pods", "Percent"] = Field(
        description="What value counts: workers, or percent of those at the period's start."
    )
    value: int = Field(description="Workers or percent.", ge=1, le=10_000)
    period_seconds: int = Field(description="Length of the period.", ge=1, le=1800)


class ScalingRules(ManifestModel):
    """Rules of one direction, as in a HorizontalPodAutoscaler v2."""

    stabilization_window_seconds: int | None = Field(
        None,
        description="The safest recommendation of this time counts: the highest one against scaling"
        " down, the lowest one against scaling up; by default 60 for scaling down, and 0 for"
        " scaling up.",
        ge=0,
        le=3600,
    )
    select_policy: Literal["Max", "Min", "Disabled"] | None = Field(
        None,
        description="Which policy counts: the one that allows the most change (Max, the default),"
        " the least (Min), or none, and this direction is closed (Disabled).",
    )
    policies: list[ScalingPolicy] | None = Field(
        None,
        description="Limits of the rate; by default 4 workers or 100 percent in 15 s for scaling"
        " up, and 100 percent in 15 s for scaling down.",
        max_length=20,
        min_length=1,
    )
    tolerance: float | None = Field(
        None,
        description="Share by which the need may differ from the present number before anything"
        " changes, by default 0.1.",
        ge=0,
        le=1,
    )


class ScalingBehavior(ManifestModel):
    """Rules of both directions, as in a HorizontalPodAutoscaler v2."""

    scale_up: ScalingRules | None = Field(None, description="Rules for more workers.")
    scale_down: ScalingRules | None = Field(None, description="Rules for fewer workers.")


class Schedule(ManifestModel):
    """A higher least number of workers for part of the time."""

    start: Cron = Field(description="Since when it holds: a cron expression of five fields.")
    end: Cron = Field(description="Until when it holds: a cron expression of five fields.")
    time_zone: str | None = Field(
        None,
        description="Time zone of both, from the IANA database, such as Europe/Berlin; by default"
        " UTC.",
        min_length=1,
        max_length=64,
    )
    min_replicas: Floor = Field(description="Least number of workers meanwhile.")

    @model_validator(mode="after")
    def _ends(self) -> Schedule:
        if self.start == self.end:
            raise problem_error("end: is the same as start", "write a later moment")
        return self


class Autoscaling(ManifestModel):
    """As many workers as the work needs, in place of a fixed number."""

    engine: Literal["operator", "keda"] | None = Field(
        None,
        description="Who scales: the operator itself (the default), or KEDA, which has to be"
        " installed.",
    )
    min_replicas: Floor | None = Field(
        None,
        description="Least number of workers, by default 1; 0 where the message queue keeps tasks"
        " while no worker runs.",
    )
    max_replicas: int = Field(description="Greatest number of workers.", ge=1, le=MAX_REPLICAS)
    target_backlog: int | None = Field(
        None,
        description="Unfinished tasks per worker to scale for: queued ones and those in work,"
        " without those that wait for an answer.",
        ge=1,
        le=1_000_000,
    )
    target_wait_seconds: Seconds | None = Field(
        None, description="How long a task may wait for a worker, to scale for."
    )
    behavior: ScalingBehavior | None = Field(
        None, description="Rules for both directions, as in a HorizontalPodAutoscaler v2."
    )
    schedules: list[Schedule] | None = Field(
        None,
        description="Higher least numbers for part of the time; of several the highest counts.",
        max_length=20,
    )

    @model_validator(mode="after")
    def _fits(self) -> Autoscaling:
        require_one(self, ("target_backlog", "target_wait_seconds"))
        if (self.min_replicas or 0) > self.max_replicas:
            raise problem_error("minReplicas: is above maxReplicas", "write at most maxReplicas")
        if any(each.min_replicas > self.max_replicas for each in self.schedules or ()):
            raise problem_error(
                "schedules: a minReplicas is above maxReplicas", "write at most maxReplicas"
            )
        return self
