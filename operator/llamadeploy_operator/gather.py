"""All that the builders have to know of one custom resource, gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from llamadeploy.spec.manifest import (
    ControlPlane,
    DeploymentManifestSpec,
    WorkflowServiceManifestSpec,
)
from llamadeploy_operator import names
from llamadeploy_operator.cluster.api import Api
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.consumed import ConsumedObjects
from llamadeploy_operator.cluster.consumed import key_of as consumed_key
from llamadeploy_operator.cluster.kinds import DEPLOYMENT
from llamadeploy_operator.cluster.observe import live_workloads
from llamadeploy_operator.cluster.resolutions import Resolutions
from llamadeploy_operator.desired import (
    Capabilities,
    DeploymentContext,
    OperatorDefaults,
    Owner,
    Parent,
    Scaled,
    ServiceContext,
    autoscaled,
    choose_pin,
    consumed,
)
from llamadeploy_operator.desired.children import needed
from llamadeploy_operator.errors import Problem, SpecError
from llamadeploy_operator.reasons import Reason
from llamadeploy_operator.status import pin_of

Json = Mapping[str, Any]
Context = TypeVar("Context", DeploymentContext, ServiceContext)


@dataclass
class Gathered:
    """What was found beside the context.

    Attributes:
        reads: Secrets and ConfigMaps that the resource depends on.
        unreadable: some of them could not be read; look again.
        problems: what keeps the resource from being carried out.
    """

    reads: set[ObjectKey] = field(default_factory=set)
    unreadable: bool = False
    problems: list[Problem] = field(default_factory=list)


class Gatherer:
    """Builds the contexts of ``desired``. One for the process."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        defaults: OperatorDefaults,
        capabilities: Callable[[], Capabilities],
        scaled: Callable[[str, str], Scaled | None],
    ) -> None:
        self._cache = cache
        self._defaults = defaults
        self._capabilities = capabilities
        self._scaled = scaled
        self._consumed = ConsumedObjects(api, cache)
        self._resolutions = Resolutions(api, cache)

    async def deployment(self, live: Json, gathered: Gathered) -> DeploymentContext:
        """The context of a Deployment. Raises: SpecError, ApiError."""
        owner, spec = owner_of(live), deployment_spec(live)
        wanted = consumed(spec)
        hashes = await self._consumed.hashes(owner.namespace, wanted)
        gathered.reads |= {consumed_key(owner.namespace, item) for item in wanted}
        gathered.unreadable |= None in hashes.values()
        context = DeploymentContext(
            owner=owner,
            spec=spec,
            defaults=self._defaults,
            pin=choose_pin(spec, self._defaults, pin_of(live.get("status"))),
            hashes=hashes,
            live=live_workloads(self._cache, owner.uid),
            state_store_scheme=self._scheme(owner.namespace, spec),
            capabilities=self._capabilities(),
        )
        return await self._resolved(context, gathered)

    async def service(self, live: Json, gathered: Gathered) -> ServiceContext:
        """The context of a WorkflowService. Raises: SpecError, ApiError."""
        owner, spec = owner_of(live), service_spec(live)
        parent = await self._parent(owner.namespace, spec, gathered)
        wanted = consumed(spec) | (consumed(parent.spec) if parent else set())
        hashes = await self._consumed.hashes(owner.namespace, wanted)
        gathered.reads |= {consumed_key(owner.namespace, item) for item in wanted}
        gathered.unreadable |= None in hashes.values()
        context = ServiceContext(
            owner=owner,
            spec=spec,
            replicas=live["spec"].get("replicas", 1),
            parent=parent,
            defaults=self._defaults,
            hashes=hashes,
            live=live_workloads(self._cache, owner.uid),
            conflict=older_namesake(self._cache, live),
            capabilities=self._capabilities(),
            scaled=self._scaled(owner.namespace, owner.name),
        )
        autoscaled(context)  # what is wrong with it is said before anything is built
        return await self._resolved(context, gathered)

    async def _resolved(self, context: Context, gathered: Gathered) -> Context:
        wish = needed(context)
        if wish is None:
            return context
        found, problem = await self._resolutions.find(context.owner.namespace, wish)
        if problem is not None:
            gathered.problems.append(problem)
        return replace(context, resolution=found)

    async def _parent(
        self, namespace: str, spec: WorkflowServiceManifestSpec, gathered: Gathered
    ) -> Parent | None:
        live = self._cache.get(DEPLOYMENT, namespace, spec.deployment_ref.name)
        if live is None or live["metadata"].get("deletionTimestamp"):
            return None
        try:
            parent = deployment_spec(live)
        except SpecError as error:
            raise ParentInvalid(spec.deployment_ref.name, error) from error
        await self._consumed.hashes(namespace, consumed(parent))
        return Parent(
            owner_of(live),
            parent,
            choose_pin(parent, self._defaults, pin_of(live.get("status"))),
            self._scheme(namespace, parent),
        )

    def _scheme(self, namespace: str, spec: DeploymentManifestSpec) -> str | None:
        store = (spec.control_plane or ControlPlane()).state_store
        if store is None or store.uri_from is None:
            return None
        reference = store.uri_from.secret_key_ref
        return self._consumed.scheme(namespace, reference.name, reference.key)


class ParentInvalid(SpecError):
    """The Deployment that a WorkflowService belongs to cannot be carried out."""

    reason = Reason.DEPLOYMENT_INVALID

    def __init__(self, name: str, error: SpecError) -> None:
        super().__init__("deploymentRef", f"Deployment {name} has a bad spec ({error})", "mend it")


def owner_of(live: Json) -> Owner:
    """A custom resource as its children's owner."""
    metadata = live["metadata"]
    return Owner(
        live["apiVersion"],
        live["kind"],
        metadata["name"],
        metadata["namespace"],
        metadata["uid"],
        (metadata.get("annotations") or {}).get(names.RELOAD_ANNOTATION, ""),
    )


def deployment_spec(live: Json) -> DeploymentManifestSpec:
    """Parse. Raises: SpecError."""
    try:
        return DeploymentManifestSpec.model_validate(live["spec"])
    except ValidationError as error:
        raise bad_spec(error) from None


def service_spec(live: Json) -> WorkflowServiceManifestSpec:
    """Parse. Raises: SpecError."""
    try:
        return WorkflowServiceManifestSpec.model_validate(live["spec"])
    except ValidationError as error:
        raise bad_spec(error) from None


def bad_spec(error: ValidationError) -> SpecError:
    """The first thing that is wrong; never the value, which may be confidential."""
    first = error.errors(include_input=False, include_url=False)[0]
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return SpecError(f"spec{path}", f"{first['msg']}{more}", "see kubectl explain for this field")


def older_namesake(cache: Cache, live: Json) -> str | None:
    """The name of the oldest other WorkflowService of the same service, if that is older."""

    def age(body: Json) -> tuple[str, str]:
        return body["metadata"]["creationTimestamp"], body["metadata"]["uid"]

    def wire_name(body: Json) -> str:
        name: str = body["spec"].get("serviceName") or body["metadata"]["name"]
        return name

    mine = live["metadata"]
    keys = cache.services_of(mine["namespace"], live["spec"]["deploymentRef"]["name"])
    others = [
        body
        for body in (cache.get(*key) for key in keys)
        if body is not None
        and wire_name(body) == wire_name(live)
        and not body["metadata"].get("deletionTimestamp")
    ]
    oldest = min(others, key=age, default=live)
    return None if oldest["metadata"]["uid"] == mine["uid"] else str(oldest["metadata"]["name"])
