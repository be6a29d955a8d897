"""What is observed -> ``status``; pure.

The status of a Deployment::

    observedGeneration: 3
    conditions: [...]                       # all of reasons.Condition, in this order
    runtime: {image, templateRevision, version, redisImage, rabbitmqImage, uiImage}     # the Pin
    topicNamespace: ns.name
    endpoints: {controlPlane: http://..., queue: http://... (simple only), ui: http://...}
    services:                               # sorted by name
    - {name: wire-name, workflowService: object, replicas: 2, readyReplicas: 2, ready: true,
       commit: 40 hex digits}

and that of a WorkflowService::

    observedGeneration: 3
    conditions: [...]
    serviceName: wire-name
    replicas: 2              # pods there are; of the scale subresource
    readyReplicas: 2
    allowedReplicas: 2       # what the delivery table makes of spec.replicas
    selector: a=b,c=d        # of the scale subresource; set at zero replicas too
    autoscaling:             # where the spec asks for it; by the last decision that was news
      {engine, minReplicas, maxReplicas, desiredReplicas, reason, message}
    source: {hash, commit}   # what the pods run

A key is left out where it has nothing to say. No number that changes while nothing is decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamadeploy_operator import names
from llamadeploy_operator.conditions import State, clean, conditions
from llamadeploy_operator.desired.autoscaling import Autoscaled, autoscaled
from llamadeploy_operator.desired.children import needed
from llamadeploy_operator.desired.context import DeploymentContext, Pin, Scaled, ServiceContext
from llamadeploy_operator.desired.plain import without_none
from llamadeploy_operator.desired.plan import Plan
from llamadeploy_operator.desired.scaling import scaling
from llamadeploy_operator.errors import Problem
from llamadeploy_operator.observed import Observed, ObservedService, ObservedWorkload
from llamadeploy_operator.pod_problems import job_failure, pod_problems
from llamadeploy_operator.reasons import Condition, Reason

Json = Mapping[str, Any]


def deployment_status(
    live: Json,
    context: DeploymentContext | None,
    observed: Observed,
    problems: Sequence[Problem],
    now: str,
) -> dict[str, Any]:
    """The status of a Deployment.

    Args:
        live: the object, with its generation and its former status.
        context: what its children were built from; ``None`` where the spec cannot be read.
        problems: beyond what is observed.
        now: RFC 3339, for conditions that change.
    """
    found = _all_problems(observed, problems)
    if context is not None:
        found += _store_problems(context)
    waiting = (
        _waiting_ui(context)
        or _waiting_workloads(context, observed)
        or _waiting_services(context, observed)
    )
    waiting = _with_draining(waiting, observed)
    states = _states(live, observed, found, waiting)
    suspended = context is not None and bool(context.spec.suspend)
    states[Condition.PAUSED] = _paused(suspended)
    limited = [each for each in observed.services if _true(each, Condition.SCALING_LIMITED)]
    message = "; ".join(
        f"{each.service}: {each.conditions[Condition.SCALING_LIMITED][2]}" for each in limited
    )
    states[Condition.SCALING_LIMITED] = (
        State(True, _limit_of(limited[0]), message) if limited else State(False, Reason.NOT_LIMITED)
    )
    _add_degraded_services(states, observed)
    status = _frame(live, states, now)
    status["services"] = [_service(each) for each in sorted(observed.services, key=_by_name)]
    if context is not None:
        plan = Plan.of(context, context.defaults)
        status["runtime"] = runtime(context.pin)
        status["topicNamespace"] = plan.topic_namespace
        status["endpoints"] = _endpoints(plan)
    return _kept(status, live, ("runtime", "topicNamespace", "endpoints"))


def service_status(
    live: Json,
    context: ServiceContext | None,
    observed: Observed,
    problems: Sequence[Problem],
    now: str,
) -> dict[str, Any]:
    """The status of a WorkflowService; arguments as of :func:`deployment_status`."""
    found = _all_problems(observed, problems)
    suspended = False
    if context is not None:
        found += _belonging(context)
        suspended = context.parent is not None and bool(context.parent.spec.suspend)
    waiting = _waiting_resolution(context) or _waiting_workloads(context, observed)
    states = _states(live, observed, found, waiting)
    states[Condition.PAUSED] = _paused(suspended)
    states[Condition.SCALING_LIMITED] = _limited(context, suspended)
    status = _frame(live, states, now)
    workers = [each for each in observed.workloads if each.component == names.WORKER]
    status["replicas"] = sum(each.replicas for each in workers)
    status["readyReplicas"] = sum(each.ready for each in workers)
    status["selector"] = _selector(live)
    if context is not None:
        status["serviceName"] = context.service
        status["allowedReplicas"] = scaling(context).replicas
        if (scale := autoscaled(context)) is not None:
            status["autoscaling"] = _autoscaling(live, scale, context.scaled)
        if source := _source(context):
            status["source"] = source
    return _kept(status, live, ("serviceName", "source"))


def runtime(pin: Pin) -> dict[str, Any]:
    """``status.runtime``; :func:`pin_of` reads it again."""
    return without_none(
        {
            "image": pin.image,
            "templateRevision": pin.revision,
            "version": pin.version,
            "redisImage": pin.redis_image or None,
            "rabbitmqImage": pin.rabbitmq_image or None,
            "uiImage": pin.ui_image or None,
        }
    )


def pin_of(status: Json | None) -> Pin | None:
    """The recorded pin; ``None`` for a new Deployment."""
    found = (status or {}).get("runtime") or {}
    if not found.get("image"):
        return None
    return Pin(
        found["image"],
        int(found.get("templateRevision", 1)),
        found.get("version"),
        found.get("redisImage", ""),
        found.get("rabbitmqImage", ""),
        found.get("uiImage", ""),
    )


# -- conditions --------------------------------------------------------------------------------


def _states(
    live: Json, observed: Observed, problems: list[Problem], waiting: State | None
) -> dict[Condition, State]:
    """All conditions but Paused and ScalingLimited.

    Args:
        waiting: what is on its way, ``None`` where nothing is.
    """
    of_pods = pod_problems(observed)
    missing = _missing(live, observed, waiting)
    degraded = [*of_pods, *([missing] if missing and not of_pods else [])]
    stalled = next((each for each in problems if each.stalled), None)
    worst = stalled or next(iter(problems), None) or next(iter(degraded), None)
    ended = any(each.reason is Reason.PROGRESS_DEADLINE for each in of_pods)
    moving = waiting is not None and stalled is None and not ended
    ready = worst is None and waiting is None
    blocked = State(False, worst.reason, worst.message) if worst else waiting
    return {
        Condition.READY: State(True, Reason.READY) if ready or not blocked else _no(blocked),
        Condition.PROGRESSING: _progressing(waiting if moving else None, of_pods),
        Condition.DEGRADED: (
            State(True, degraded[0].reason, "; ".join(each.message for each in degraded))
            if degraded
            else State(False, Reason.HEALTHY)
        ),
        Condition.RECONCILING: _reconciling(waiting if moving else None, problems, stalled),
        Condition.STALLED: (
            State(True, stalled.reason, stalled.message)
            if stalled
            else State(False, Reason.RECONCILED)
        ),
    }


def _progressing(waiting: State | None, of_pods: list[Problem]) -> State:
    if waiting is not None:
        return State(True, waiting.reason, waiting.message)
    ended = next((each for each in of_pods if each.reason is Reason.PROGRESS_DEADLINE), None)
    return State(False, ended.reason, ended.message) if ended else State(False, Reason.UP_TO_DATE)


def _reconciling(waiting: State | None, problems: list[Problem], stalled: Problem | None) -> State:
    """True while it may get better by itself; kstatus takes it for "in progress"."""
    passing = next((each for each in problems if not each.stalled), None)
    if stalled is None and passing is not None:
        return State(True, passing.reason, passing.message)
    if waiting is not None:
        return State(True, waiting.reason, waiting.message)
    return State(False, Reason.RECONCILED)


def _no(state: State) -> State:
    return State(False, state.reason, state.message)


def _paused(suspended: bool) -> State:
    if suspended:
        return State(True, Reason.SUSPENDED, "no workers run, and tasks wait in the queue")
    return State(False, Reason.RUNNING)


def _limited(context: ServiceContext | None, suspended: bool) -> State:
    """Why there are not as many workers as asked for, by a person or by the work."""
    if context is None:
        return State(False, Reason.NOT_LIMITED)
    table = scaling(context).limited
    if table is not None:
        return State(True, Reason.DELIVERY_LIMIT, table)
    found, scaled = autoscaled(context), context.scaled
    if found is None or suspended:
        return State(False, Reason.NOT_LIMITED)
    if found.engine == "keda":
        if context.capabilities.keda:
            return State(False, Reason.NOT_LIMITED)
        text = "KEDA is not installed, and nobody scales; install it, or write engine: operator"
        return State(True, Reason.KEDA_NOT_INSTALLED, text)
    if scaled is not None and scaled.unavailable is not None:
        text = f"{scaled.unavailable}; {_replicas(scaled.replicas)} until the work is known again"
        return State(True, Reason.METRIC_UNAVAILABLE, text)
    if scaled is not None and scaled.capped:
        text = "the work asks for more workers; raise autoscaling.maxReplicas to have them"
        return State(True, Reason.TOO_MANY_REPLICAS, text)
    return State(False, Reason.NOT_LIMITED)


def _replicas(number: int) -> str:
    return "1 replica stays" if number == 1 else f"{number} replicas stay"


def _limit_of(service: ObservedService) -> Reason:
    try:
        return Reason(service.conditions[Condition.SCALING_LIMITED][1])
    except ValueError:  # another release's
        return Reason.DELIVERY_LIMIT


def _add_degraded_services(states: dict[Condition, State], observed: Observed) -> None:
    """A Deployment is as degraded as its services."""
    bad = [each for each in observed.services if _true(each, Condition.DEGRADED)]
    if bad and not states[Condition.DEGRADED].status:
        text = "; ".join(
            f"{each.service}: {each.conditions[Condition.DEGRADED][2]}" for each in bad
        )
        states[Condition.DEGRADED] = State(True, Reason.SERVICE_DEGRADED, text)


# -- what is on its way, or wrong ----------------------------------------------------------------


def _all_problems(observed: Observed, problems: Sequence[Problem]) -> list[Problem]:
    found = list(problems)
    if any(each.reason is Reason.SOURCE_FAILED for each in found):
        return found
    for job in observed.jobs:
        if job.failed:
            text = job.message.strip() or job_failure(job.pods) or "look at the log of its pod"
            found.append(Problem(Reason.SOURCE_FAILED, f"the source cannot be resolved: {text}"))
    return found


def _store_problems(context: DeploymentContext) -> list[Problem]:
    plan = Plan.of(context, context.defaults)
    asked = max(plan.control_plane.replicas or 1, plan.orchestrator.replicas or 1)
    store = plan.state_store
    if store is None or store.uri_from is None or plan.store_shared or asked == 1:
        return []
    text = (
        f"the state store is {plan.store_scheme}, which one control plane alone can open; name a"
        " shared one (redis, postgresql) in the Secret, or ask for one replica"
    )
    return [Problem(Reason.STATE_NOT_SHARED, text, stalled=True)]


def _belonging(context: ServiceContext) -> list[Problem]:
    name = context.spec.deployment_ref.name
    if context.parent is None:
        text = f"there is no Deployment '{name}' in this namespace; create it, and workers start"
        return [Problem(Reason.DEPLOYMENT_NOT_FOUND, text, stalled=True)]
    if context.conflict is not None:
        text = (
            f"the WorkflowService '{context.conflict}' is older and serves '{context.service}';"
            " give this one another serviceName, or delete one of them"
        )
        return [Problem(Reason.NAME_CONFLICT, text, stalled=True)]
    return []


def _expected(context: DeploymentContext | ServiceContext | None) -> dict[str, str]:
    """Name -> component of the workloads there have to be."""
    if context is None:
        return {}
    owner = context.owner.name
    if isinstance(context, ServiceContext):
        return {names.worker(owner): names.WORKER} if context.parent is not None else {}
    plan = Plan.of(context, context.defaults)
    wanted = {
        names.control_plane(owner): (names.CONTROL_PLANE, True),
        names.orchestrator(owner): (names.ORCHESTRATOR, plan.orchestrators > 0),
        names.queue(owner): (names.QUEUE, plan.managed_queue),
        names.state_store(owner): (names.STATE_STORE, plan.managed_store),
        names.ui(owner): (names.UI, plan.spec.ui is not None),
    }
    return {name: component for name, (component, there) in wanted.items() if there}


def _waiting_workloads(
    context: DeploymentContext | ServiceContext | None, observed: Observed
) -> State | None:
    late = [each.component for each in observed.workloads if not _complete(each)]
    there = {each.name for each in observed.workloads}
    late += [component for name, component in _expected(context).items() if name not in there]
    if not late:
        return None
    text = f"{', '.join(sorted(set(late)))}: pods are being started or replaced"
    return State(True, Reason.ROLLING_OUT, text)


def _waiting_ui(context: DeploymentContext | None) -> State | None:
    state = _waiting_resolution(context)
    return State(True, state.reason, f"ui: {state.message}") if state else None


def _waiting_resolution(context: DeploymentContext | ServiceContext | None) -> State | None:
    wanted = needed(context) if context is not None else None
    if context is None or wanted is None or wanted.met_by(context.resolution):
        return None
    return State(True, Reason.RESOLVING_SOURCE, "commit and dependencies are being looked up")


def _waiting_services(context: DeploymentContext | None, observed: Observed) -> State | None:
    staying = [each for each in observed.services if not each.draining]
    late = sorted((each for each in staying if not _ready(each)), key=_by_name)
    there = {each.service for each in observed.services}
    inline = (context.spec.services if context is not None else None) or ()
    missing = [each.name for each in inline if each.name not in there]
    if not late and not missing:
        return None
    text = "; ".join(
        [
            *(f"{each.service}: {_why(each)}" for each in late),
            *(f"{name}: being made" for name in missing),
        ]
    )
    return State(True, Reason.WAITING_FOR_SERVICES, text)


def _with_draining(waiting: State | None, observed: Observed) -> State | None:
    """Removed services beside what else is on its way, which is never hidden by them."""
    draining = sorted(each.service for each in observed.services if each.draining)
    if not draining:
        return waiting
    text = f"{', '.join(draining)}: removed; its tasks are ended first"
    if waiting is None:
        return State(True, Reason.DRAINING_SERVICE, text)
    return State(True, waiting.reason, f"{waiting.message}; {text}")


def _missing(live: Json, observed: Observed, waiting: State | None) -> Problem | None:
    """Fewer replicas than there should be, of a resource that was complete before: a pod was lost.
    While a rollout goes on that is no news."""
    if waiting is None or waiting.reason is not Reason.ROLLING_OUT:
        return None
    late = [each for each in observed.workloads if not _complete(each)]
    if not all(_rolled_out(each) for each in late):
        return None
    before = {each["type"]: each for each in (live.get("status") or {}).get("conditions") or ()}
    degraded = before.get(Condition.DEGRADED) or {}
    was_ready = (before.get(Condition.READY) or {}).get("status") == "True"
    if not was_ready and degraded.get("reason") != Reason.NOT_ENOUGH_REPLICAS:
        return None
    text = f"{', '.join(sorted({each.component for each in late}))}: not all replicas are ready"
    return Problem(Reason.NOT_ENOUGH_REPLICAS, text)


def _complete(workload: ObservedWorkload) -> bool:
    return _rolled_out(workload) and workload.available >= workload.desired


def _rolled_out(workload: ObservedWorkload) -> bool:
    """All pods are of the current template, ready or not."""
    return (
        workload.observed_generation >= workload.generation
        and workload.updated >= workload.desired
        and workload.replicas <= max(workload.updated, workload.desired)
    )


def _ready(service: ObservedService) -> bool:
    return service.observed_generation >= service.generation and _true(service, Condition.READY)


def _true(service: ObservedService, kind: Condition) -> bool:
    return service.conditions.get(kind, ("", "", ""))[0] == "True"


def _why(service: ObservedService) -> str:
    _, reason, message = service.conditions.get(Condition.READY, ("", "", ""))
    return message or reason or "not looked at yet"


# -- the rest ------------------------------------------------------------------------------------


def _frame(live: Json, states: Mapping[Condition, State], now: str) -> dict[str, Any]:
    generation = int(live["metadata"].get("generation", 1))
    previous = (live.get("status") or {}).get("conditions") or ()
    return {
        "observedGeneration": generation,
        "conditions": conditions(states, previous, generation, now),
    }


def _kept(status: dict[str, Any], live: Json, keys: Sequence[str]) -> dict[str, Any]:
    """What is not known now (a bad spec) stays as it was: the pods run on with it."""
    former = live.get("status") or {}
    for key in keys:
        if key not in status and key in former:
            status[key] = former[key]
    return status


def _service(service: ObservedService) -> dict[str, Any]:
    return without_none(
        {
            "name": service.service,
            "workflowService": service.name,
            "replicas": service.replicas,
            "readyReplicas": service.ready,
            "ready": _ready(service),
            "commit": service.commit,
        }
    )


def _by_name(service: ObservedService) -> tuple[str, str]:
    return service.service, service.name


def _endpoints(plan: Plan) -> dict[str, str]:
    endpoints = {"controlPlane": plan.control_plane_url}
    if plan.queue.type == "simple":
        endpoints["queue"] = plan.simple_queue_url
    if plan.spec.ui is not None:
        endpoints["ui"] = f"http://{plan.host(names.ui(plan.owner.name))}:{plan.ui_port}"
    return endpoints


def _autoscaling(live: Json, scale: Autoscaled, scaled: Scaled | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "engine": scale.engine,
        "minReplicas": scale.policy.min_replicas,
        "maxReplicas": scale.policy.max_replicas,
    }
    if scaled is not None:
        decision = {"desiredReplicas": scaled.replicas, "reason": scaled.reason}
        return found | decision | {"message": clean(scaled.message)}
    former = (live.get("status") or {}).get("autoscaling") or {}
    if scale.engine == "operator":  # a new leader has decided nothing yet
        kept = ("desiredReplicas", "reason", "message")
        found |= {key: former[key] for key in kept if key in former}
    return found


def _selector(live: Json) -> str:
    labels = names.selector("", names.WORKER, workflow_service=live["metadata"]["name"])
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _source(context: ServiceContext) -> dict[str, Any]:
    """What the worker's template is pinned to: the new resolution, or the live one until then."""
    wanted, resolution = needed(context), context.resolution
    if wanted is None or resolution is None or not wanted.met_by(resolution):
        return {}
    return without_none({"hash": wanted.source_hash, "commit": resolution.commit})
