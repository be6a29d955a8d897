"""The Secret ``<name>-internal``: what is drawn at random, once.

It is not among the applied children. Whoever reconciles creates it after a definite 404, adds keys
that are missing, and never writes one again that is there.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from llamadeploy.spec.manifest import DeploymentManifestSpec
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import DeploymentContext, Manifest
from llamadeploy_operator.desired.objects import child
from llamadeploy_operator.desired.plan import Plan

KEY_BYTES = 32


def internal_keys(spec: DeploymentManifestSpec) -> tuple[str, ...]:
    """The keys that a Deployment needs, sorted."""
    keys = {names.API_TOKEN}
    if spec.signing_key_from is None:
        keys.add(names.SIGNING_KEY)
    queue = spec.message_queue
    if queue is not None and queue.managed is not None:
        keys.add(names.QUEUE_PASSWORD)
        if queue.type == "rabbitmq":
            keys.add(names.QUEUE_COOKIE)
    store = spec.control_plane.state_store if spec.control_plane else None
    if store is not None and store.managed is not None:
        keys.add(names.STORE_PASSWORD)
    return tuple(sorted(keys))


def internal_value(key: str, random: bytes) -> str:
    """The text of a key.

    Args:
        random: :data:`KEY_BYTES` random bytes of its own. The text is base64url: nothing in it has
            a meaning in a URL, a configuration file or Kubernetes' ``$(NAME)``.

    Raises:
        ValueError: too few bytes.
    """
    if len(random) < KEY_BYTES:
        raise ValueError(f"random: got {len(random)} bytes; give {KEY_BYTES}")
    text = base64.urlsafe_b64encode(random[:KEY_BYTES]).decode().rstrip("=")
    return f"k1:{text}" if key == names.SIGNING_KEY else text


def internal_secret(context: DeploymentContext, values: Mapping[str, str]) -> Manifest:
    """The whole Secret, to be created.

    Args:
        values: key -> text, of :func:`internal_keys`.
    """
    return child(
        "v1",
        "Secret",
        names.internal_secret(context.owner.name),
        context.owner,
        names.labels(context.owner.name, names.CONFIG),
        owned=not Plan.of(context, context.defaults).retained,
        type="Opaque",
        data={
            key: base64.b64encode(text.encode()).decode() for key, text in sorted(values.items())
        },
    )
