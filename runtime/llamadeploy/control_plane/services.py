"""The services of a deployment: declared by its specification, or registered by themselves."""

from __future__ import annotations

import time

from llamadeploy.exceptions import ConfigurationError, NotFoundError
from llamadeploy.state_stores.base import StateStore
from llamadeploy.types import ServiceDefinition, ServiceOptions

NO_SERVICE = "Service is None and deployment has no default service"

REFUSES = "refuses_tasks"
"""Key of a service's definition that says why it takes no new task."""

FRESH_SECONDS = 2.0
"""For how long what the store said of services is believed: another control plane of the
deployment may have registered one, or one with other options."""


class Services:
    """Knows services without asking the store for each task."""

    def __init__(self, store: StateStore, *, deployment: str, default: str | None) -> None:
        self._store = store
        self._deployment = deployment
        self.default = default
        self._declared: dict[str, ServiceDefinition] = {}
        self._registered: dict[str, ServiceDefinition] = {}
        self._read_at = float("-inf")

    async def refresh(self) -> None:
        """Read the registered services, which another control plane may have changed."""
        self._registered = await self._store.list_services()
        self._read_at = time.monotonic()

    async def freshen(self) -> None:
        """Read them where what is known is old; others go on with that meanwhile."""
        before, now = self._read_at, time.monotonic()
        if now - before < FRESH_SECONDS:
            return
        self._read_at = now
        try:
            await self.refresh()
        except BaseException:
            self._read_at = before
            raise

    def declare(self, service: ServiceDefinition) -> None:
        """The deployment has this service, whether it is up or not."""
        self._declared[service.service_name] = service

    def withdraw(self, name: str) -> None:
        """The deployment does not have this service any more. Idempotent."""
        self._declared.pop(name, None)

    async def register(self, service: ServiceDefinition) -> None:
        await self._store.put_service(service)
        self._registered[service.service_name] = service

    async def deregister(self, name: str) -> None:
        await self._store.delete_service(name)
        self._registered.pop(name, None)

    async def refuse(self, name: str, reason: str) -> None:
        """Let the service take no new task until :meth:`accept`, or until it is registered anew.
        Other control planes know within :data:`FRESH_SECONDS`. Idempotent."""
        found = await self._store.get_service(name) or ServiceDefinition(service_name=name)
        if _refusal(found) != reason:
            found = found.model_copy(update={REFUSES: reason})
            await self.register(found)

    async def accept(self, name: str) -> None:
        """Undo :meth:`refuse`. Idempotent."""
        found = await self._store.get_service(name)
        if found is not None and _refusal(found) is not None:
            # As it was registered: what was not said then is not said now either.
            body = found.model_dump(exclude_unset=True)
            del body[REFUSES]
            await self.register(ServiceDefinition.model_validate(body))

    def refusal(self, name: str) -> str | None:
        """Why the service takes no new task, as far as is known; ``None``: it takes them."""
        found = self._registered.get(name)
        return _refusal(found) if found is not None else None

    async def get(self, name: str) -> ServiceDefinition:
        """Raises NotFoundError where it is neither registered nor declared."""
        found = await self._store.get_service(name) or self._declared.get(name)
        if found is None:
            raise NotFoundError("Service not found")
        return found

    async def all(self) -> dict[str, ServiceDefinition]:
        await self.refresh()
        return {**self._declared, **self._registered}

    def known(self) -> set[str]:
        """Names, as far as this process has seen them."""
        return {*self._declared, *self._registered}

    async def names(self) -> set[str]:
        """Names of all services. Raises StoreUnavailableError."""
        await self.freshen()
        return self.known()

    def choose(self, name: str | None) -> str:
        """The service a task goes to: ``name``, or the default.

        Raises:
            ConfigurationError: neither is set.
        """
        chosen = name or self.default
        if chosen is None:
            raise ConfigurationError(NO_SERVICE)
        return chosen

    async def choose_known(self, name: str | None) -> str:
        """Like :meth:`choose`, for a service that exists.

        Raises:
            NotFoundError: no such service in this deployment.
        """
        chosen = self.choose(name)
        if not await self._knows(chosen):
            raise NotFoundError(f"Service '{chosen}' not found in deployment '{self._deployment}'")
        return chosen

    async def _knows(self, name: str) -> bool:
        await self.freshen()
        if name in self._declared or name in self._registered:
            return True
        found = await self._store.get_service(name)
        if found is not None:
            self._registered[name] = found
        return found is not None

    async def options(self, name: str) -> ServiceOptions:
        """How its tasks are treated: what it registered, else what was declared, else defaults."""
        await self._knows(name)
        registered, declared = self._registered.get(name), self._declared.get(name)
        if registered is not None and (
            declared is None or "options" in registered.model_fields_set
        ):
            return registered.options
        return declared.options if declared is not None else _DEFAULTS


def _refusal(service: ServiceDefinition) -> str | None:
    found = (service.model_extra or {}).get(REFUSES)
    return found if isinstance(found, str) else None


_DEFAULTS = ServiceOptions()
