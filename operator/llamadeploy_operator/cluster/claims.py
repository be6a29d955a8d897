"""The volumes of a StatefulSet that is to be made: an older one of the same name would be mounted,
whosever it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llamadeploy_operator.cluster.api import Api, ApiError
from llamadeploy_operator.cluster.cache import Cache, ObjectKey
from llamadeploy_operator.cluster.kinds import VOLUME_CLAIM
from llamadeploy_operator.errors import Problem
from llamadeploy_operator.reasons import Reason

Json = Mapping[str, Any]


async def foreign_claim(api: Api, cache: Cache, stateful_set: Json) -> Problem | None:
    """The problem: a claim that this StatefulSet's pods would mount is not ours.

    Ours have the labels of the claim's template; one of an earlier Deployment of the same name has
    them too (``deletionPolicy: Retain``). Raises: ApiError.
    """
    for key, labels in _claims(stateful_set):
        found = cache.get(*key)
        if found is None:
            try:
                found = await api.get(*key)
            except ApiError as error:
                if error.not_found:
                    continue
                raise
        if not labels.items() <= (found["metadata"].get("labels") or {}).items():
            return Problem(
                Reason.NAME_CONFLICT,
                f"PersistentVolumeClaim {key.name} exists already and is not ours; rename or "
                "delete it, or give this resource another name",
                stalled=True,
            )
    return None


def _claims(stateful_set: Json) -> Iterator[tuple[ObjectKey, Mapping[str, str]]]:
    metadata, spec = stateful_set["metadata"], stateful_set["spec"]
    for template in spec.get("volumeClaimTemplates") or ():
        for number in range(spec.get("replicas", 1)):
            name = f"{template['metadata']['name']}-{metadata['name']}-{number}"
            labels = template["metadata"].get("labels") or {}
            yield ObjectKey(VOLUME_CLAIM, metadata["namespace"], name), labels
