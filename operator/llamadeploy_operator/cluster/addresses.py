"""Where Deployments' control planes are reached, and the token that they ask for."""

from __future__ import annotations

import base64

from llamadeploy_operator import names
from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.control_planes import Address
from llamadeploy_operator.cluster.kinds import SECRET
from llamadeploy_operator.desired import DeploymentContext, OperatorDefaults, Owner, Parent
from llamadeploy_operator.desired.plan import Plan


class Addresses:
    """Reads a token once for each version of its Secret.

    Args:
        url_template: of control planes' URLs, for an operator outside of the cluster;
            ``{service}`` and ``{namespace}`` are the control plane's Service.
    """

    def __init__(
        self, api: Api, cache: Cache, defaults: OperatorDefaults, url_template: str | None = None
    ) -> None:
        self._api = api
        self._cache = cache
        self._defaults = defaults
        self._template = url_template
        self._tokens: dict[ObjectKey, tuple[str, str]] = {}

    async def of(self, parent: DeploymentContext | Parent) -> Address:
        """The address of a Deployment's control plane.

        Raises:
            ApiError: the token cannot be read now.
        """
        owner = parent.owner
        url = Plan.of(parent, self._defaults).control_plane_url
        if self._template is not None:
            service = names.control_plane(owner.name)
            url = self._template.format(service=service, namespace=owner.namespace).rstrip("/")
        return Address(url, await self._token(owner))

    async def _token(self, owner: Owner) -> str:
        key = ObjectKey(SECRET, owner.namespace, names.internal_secret(owner.name))
        version = self._cache.version(*key)
        known = self._tokens.get(key)
        if known is not None and known[0] == version:
            return known[1]
        try:
            secret = await self._api.get(*key)
        except ApiError as error:
            if not error.not_found:
                raise
            self._tokens.pop(key, None)
            return ""
        token = base64.b64decode((secret.get("data") or {}).get(names.API_TOKEN, "")).decode()
        self._tokens[key] = (secret["metadata"]["resourceVersion"], token)
        return token
