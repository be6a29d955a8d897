"""kopf speaks to the cluster with the same credentials as the rest of the process."""

from __future__ import annotations

from typing import Any

import kopf

from llamadeploy_operator.cluster.api import Api


def register(registry: kopf.OperatorRegistry, api: Api) -> None:
    """One login handler; kopf calls it again when the API server says 401."""

    async def login(**arguments: Any) -> kopf.ConnectionInfo:
        configuration = api.configuration
        get_header: Any = configuration.get_api_key_with_prefix
        header = await get_header("BearerToken", alias="authorization") or ""
        scheme, _, token = header.rpartition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=(scheme or "Bearer") if token else None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    kopf.on.login(registry=registry, retries=3)(login)
