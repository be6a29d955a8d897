"""kopf speaks to the cluster with the same credentials as the rest of the process."""

from __future__ import annotations

from typing import Any

import kopf

from llamadeploy_operator.cluster.api import Api


def register(registry: kopf.OperatorRegistry, api: Api) -> None:
    """One login handler; kopf calls it again when the API server says 401."""

    async def login(**arguments: Any) -> kopf.ConnectionInfo:
        credentials = api.credentials
        scheme, token = await credentials.authorization() or (None, None)
        return kopf.ConnectionInfo(
            server=credentials.server,
            ca_data=credentials.authority,
            insecure=credentials.insecure,
            scheme=scheme,
            token=token,
            certificate_data=credentials.certificate,
            private_key_data=credentials.key,
            proxy_url=credentials.proxy,
        )

    kopf.on.login(registry=registry, retries=3)(login)
