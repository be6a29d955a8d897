"""The Secret of a git source whose URL holds a login."""

from __future__ import annotations

import base64

from llamadeploy_operator import names
from llamadeploy_operator.desired.context import Manifest, Owner
from llamadeploy_operator.desired.objects import child
from llamadeploy_operator.desired.prepared import SOURCE_KEY
from llamadeploy_operator.desired.sources import PodSource


def source_secret(owner: Owner, labels: dict[str, str], source: PodSource) -> Manifest | None:
    """``None`` where the source can be read by anybody."""
    if not source.confidential:
        return None
    return child(
        "v1",
        "Secret",
        names.source_secret(owner.name),
        owner,
        labels,
        type="Opaque",
        data={SOURCE_KEY: base64.b64encode(source.text.encode()).decode()},
    )
