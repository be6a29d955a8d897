"""Which adapter a ``state_store_uri`` means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module

from llamadeploy.exceptions import ConfigurationError, UnsupportedFeatureError
from llamadeploy.state_stores.base import StateStore

ADAPTERS: dict[str, str] = {
    "memory": "llamadeploy.state_stores.sqlite.store:SQLiteStateStore",
    "sqlite": "llamadeploy.state_stores.sqlite.store:SQLiteStateStore",
    "postgresql": "llamadeploy.state_stores.postgresql.store:PostgreSQLStateStore",
    "redis": "llamadeploy.state_stores.redis.store:RedisStateStore",
    "rediss": "llamadeploy.state_stores.redis.store:RedisStateStore",
    "unix": "llamadeploy.state_stores.redis.store:RedisStateStore",
}
"""Scheme -> ``module:class``; imported when asked for."""

ALIASES = {"postgres": "postgresql"}
"""Other names of schemes."""

NOT_YET = ("mongodb+srv",)
"""Schemes that deployment files may name and that have no adapter yet."""


SHARED = frozenset({"postgres", "postgresql", "redis", "rediss", "unix"})
"""Schemes of stores that any process may open: workers do, instead of asking a control plane."""


def is_shared(uri: str) -> bool:
    """Whether workers reach this store directly."""
    return uri.partition("://")[0] in SHARED


async def open_store(uri: str, namespace: str, *, worker: bool = False) -> StateStore:
    """Open the store of one deployment.

    Args:
        uri: ``memory://``, ``sqlite:///relative.db`` or ``sqlite:////absolute.db``,
            ``redis://host:port/db`` (also ``rediss``, ``unix``; see ``redis_address``),
            ``postgresql://user:password@host:port/database`` (also ``postgres``).
        namespace: the deployment; several may share one store and see nothing of each other.
        worker: nobody here follows tasks; spares what that costs, where the adapter can.

    Raises:
        ConfigurationError: an unknown scheme, or a URI that its adapter cannot use.
        UnsupportedFeatureError: a known scheme without an adapter.
        StoreUnavailableError: the store cannot be reached now.
    """
    scheme, separator, _ = uri.partition("://")
    if separator and scheme in NOT_YET:
        raise UnsupportedFeatureError(
            f"state_store_uri: '{scheme}' is not available yet; available: {_known()}"
        )
    target = ADAPTERS.get(ALIASES.get(scheme, scheme)) if separator else None
    if target is None:
        # The URI itself may hold a password, so only its scheme is shown.
        shown = f"scheme '{scheme}'" if separator else "a URI without a scheme"
        raise ConfigurationError(f"state_store_uri: {shown} is unknown; available: {_known()}")
    module, _, name = target.partition(":")
    opener: Callable[[str, str], Awaitable[StateStore]]
    adapter = getattr(import_module(module), name)
    opener = adapter.open
    if worker:
        opener = getattr(adapter, "open_for_worker", opener)
    return await opener(uri, namespace)


def _known() -> str:
    return ", ".join(f"{scheme}://" for scheme in sorted(ADAPTERS))
