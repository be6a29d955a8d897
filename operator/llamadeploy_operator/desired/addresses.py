"""The Secret ``<name>-addresses``: URLs that the spec or the operator's settings hold in the clear,
and that may contain a login. Pods take them from here."""

from __future__ import annotations

import base64

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import Manifest
from llamadeploy_operator.desired.objects import child
from llamadeploy_operator.desired.plan import Plan

STATE_STORE_URI = "state-store-uri"
QUEUE_URL = "queue-url"
INDEX_URL = "index-url"
HTTP_PROXY = "http-proxy"
HTTPS_PROXY = "https-proxy"


def addresses(plan: Plan) -> dict[str, str]:
    """Key -> text."""
    store, broker, defaults = plan.state_store, plan.broker, plan.defaults
    found = {
        INDEX_URL: defaults.index_url,
        HTTP_PROXY: defaults.http_proxy,
        HTTPS_PROXY: defaults.https_proxy,
    }
    values = {key: value for key, value in found.items() if value and "@" in value}
    if store is not None and store.uri is not None:
        values[STATE_STORE_URI] = store.uri.get_secret_value()
    if broker is not None and broker.url is not None:
        values[QUEUE_URL] = broker.url.get_secret_value()
    return dict(sorted(values.items()))


def addresses_secret(plan: Plan) -> Manifest | None:
    """The Secret; ``None`` where there is nothing to put into it."""
    values = addresses(plan)
    if not values:
        return None
    return child(
        "v1",
        "Secret",
        names.addresses_secret(plan.owner.name),
        plan.owner,
        names.labels(plan.owner.name, names.CONFIG),
        type="Opaque",
        data={key: base64.b64encode(text.encode()).decode() for key, text in values.items()},
    )
