"""The Job that runs ``llamadeploy resolve``."""

from __future__ import annotations

from llamadeploy.spec.manifest import Component
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import Manifest, Owner
from llamadeploy_operator.desired.objects import child
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.pod import PodPlan, ca_volumes, pod_template
from llamadeploy_operator.desired.prepared import preparing_container, work_volumes
from llamadeploy_operator.desired.resolution import NeededResolution
from llamadeploy_operator.desired.sources import pod_source

DEADLINE_SECONDS = 1800
RETRY_SECONDS = 300
"""A failed Job is deleted after this, and made anew: what was wrong may have passed."""

WRONG_INPUT = 2
"""Exit code of a source or dependency that no second try makes right."""


def resolver_job(
    owner: Owner,
    labels: dict[str, str],
    item: Component,
    needed: NeededResolution,
    plan: Plan,
    secret: str,
) -> Manifest:
    """The Job of a component's source.

    Args:
        owner: the resource whose component it is.
        plan: of the Deployment it belongs to.
        secret: see ``prepared.source_setting``.
    """
    source = pod_source(item, None)
    pod = PodPlan(
        labels=labels,
        selector={},
        service_account=names.workers(plan.owner.name),
        container=preparing_container("resolve", item, source, plan, secret),
        revision=plan.pin.revision,
        volumes=[*work_volumes(source), *ca_volumes(plan.defaults, plan.owner.name)],
        spread=False,
    )
    template = pod_template(pod, plan.defaults)
    template["spec"]["restartPolicy"] = "Never"
    return child(
        "batch/v1",
        "Job",
        needed.job_name,
        owner,
        labels,
        annotations={names.SOURCE_ANNOTATION: needed.source_hash},
        spec={
            "backoffLimit": 3,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": RETRY_SECONDS,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": "resolve",
                            "operator": "In",
                            "values": [WRONG_INPUT],
                        },
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": template,
        },
    )
