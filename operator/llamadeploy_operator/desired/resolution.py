"""Pinning a source: what there is to resolve, and the ConfigMap that keeps the result.

A branch moves and a version range is met by another release tomorrow. So that all replicas run the
same code, a Job looks both up once for each change of the source; its result stays with the pods.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamadeploy.spec.manifest import Component
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import Consumed, LiveWorkload, Manifest, Owner, Resolution
from llamadeploy_operator.desired.objects import child
from llamadeploy_operator.desired.plain import digest, plain
from llamadeploy_operator.desired.pod import recorded_hashes

MAX_REQUIREMENTS = 900_000
"""Bytes: a ConfigMap holds 1 MiB."""

LOCK_VOLUME = "lock"

REVISIONS = 3
"""``revisionHistoryLimit`` of workloads."""

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class BadResolutionError(ValueError):
    """A Job's log is not what ``llamadeploy resolve`` prints."""


@dataclass(frozen=True, slots=True)
class NeededResolution:
    """What is to be resolved, and where it is done and kept.

    Attributes:
        requirements: there are dependencies to lock; a resolution has to bring them.
    """

    source_hash: str
    job_name: str
    config_map_name: str
    git: bool
    requirements: bool

    def met_by(self, resolution: Resolution | None) -> bool:
        """Whether ``resolution`` is of this source."""
        return resolution is not None and resolution.source_hash == self.source_hash


def needed_resolution(
    item: Component,
    owner: Owner,
    image: str,
    hashes: Mapping[Consumed, str | None],
    live: LiveWorkload | None,
) -> NeededResolution | None:
    """What a component's source needs; ``None``: it is pinned as it stands.

    Args:
        image: the runtime's: another Python may need other packages.
        hashes: of what the component consumes; a ConfigMap's files may list dependencies.
        live: its live workload; see ``pod.consumed_annotation``.
    """
    git, locked = item.source.git, bool(item.python_dependencies)
    if git is None and not locked:
        return None
    parts: dict[str, Any] = {"reload": owner.reload}
    if git is not None:
        parts["git"] = [git.url.get_secret_value(), git.ref]
    if locked:
        parts |= {"dependencies": plain(item.python_dependencies), "image": image}
        parts["source"] = plain(item.source)
        if item.source.config_map is not None:
            parts["files"] = _hash_of(item.source.config_map.name, hashes, live)
    found = digest(parts)
    return NeededResolution(
        found,
        names.resolver_job(owner.name, found),
        names.lock_config_map(owner.name, found),
        git is not None,
        locked,
    )


def parse_resolution(needed: NeededResolution, log: str) -> Resolution:
    """What the finished Job printed: one line of JSON, after whatever was said before.

    Raises:
        BadResolutionError: it is not there, or not whole.
    """
    for line in reversed(log.splitlines()):
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if isinstance(data, dict) and "commit" in data and "lock" in data:
            return _checked(needed, data["commit"], data["lock"])
    raise BadResolutionError("the resolver printed no result; look at the log of its pod")


def read_resolution(config_map: Manifest) -> Resolution | None:
    """A lock ConfigMap -> what it holds; ``None``: somebody made it without a source's hash."""
    metadata = config_map.get("metadata") or {}
    found = (metadata.get("annotations") or {}).get(names.SOURCE_ANNOTATION)
    data = config_map.get("data") or {}
    if not found:
        return None
    return Resolution(
        found, data.get(names.LOCK_COMMIT) or None, data.get(names.LOCK_REQUIREMENTS, "")
    )


def lock_config_map(
    owner: Owner, labels: dict[str, str], needed: NeededResolution, resolution: Resolution
) -> Manifest:
    """The ConfigMap of a resolution. Immutable: another source has another one."""
    data = {names.LOCK_REQUIREMENTS: resolution.requirements} if resolution.requirements else {}
    if resolution.commit is not None:
        data[names.LOCK_COMMIT] = resolution.commit
    return child(
        "v1",
        "ConfigMap",
        needed.config_map_name,
        owner,
        labels,
        annotations={names.SOURCE_ANNOTATION: needed.source_hash},
        immutable=True,
        data=data,
    )


def live_locks(live: LiveWorkload | None) -> list[str]:
    """Lock ConfigMaps that pods of a live workload may mount: the present one first, then those of
    as many former revisions as are kept for a rollback."""
    if live is None:
        return []
    metadata, spec = live.template.get("metadata") or {}, live.template.get("spec") or {}
    found = [
        volume["configMap"]["name"]
        for volume in spec.get("volumes") or ()
        if volume.get("name") == LOCK_VOLUME and "configMap" in volume
    ]
    former = (metadata.get("annotations") or {}).get(names.FORMER_LOCKS_ANNOTATION, "")
    return list(dict.fromkeys([*found, *filter(None, former.split(","))]))


def former_locks_annotation(
    needed: NeededResolution | None, resolution: Resolution | None, live: LiveWorkload | None
) -> dict[str, str]:
    """Remembers the former locks. It changes with the lock alone, so it rolls nothing itself."""
    volumes = lock_volume(needed, resolution)
    present = {volume["configMap"]["name"] for volume in volumes}
    former = [name for name in live_locks(live) if name not in present][:REVISIONS]
    return {names.FORMER_LOCKS_ANNOTATION: ",".join(former)} if former else {}


def lock_volume(needed: NeededResolution | None, resolution: Resolution | None) -> list[Any]:
    """The volume with the locked requirements, where there are any."""
    if needed is None or resolution is None or not resolution.requirements:
        return []
    items = [{"key": names.LOCK_REQUIREMENTS, "path": "requirements.txt"}]
    return [{"name": LOCK_VOLUME, "configMap": {"name": needed.config_map_name, "items": items}}]


def _checked(needed: NeededResolution, commit: Any, lock: Any) -> Resolution:
    if needed.git and not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
        raise BadResolutionError("the resolver printed no commit")
    if needed.requirements and not (isinstance(lock, str) and lock.strip()):
        raise BadResolutionError("the resolver printed no lock of the dependencies")
    text = lock if isinstance(lock, str) else ""
    if len(text.encode()) > MAX_REQUIREMENTS:
        raise BadResolutionError("the lock of the dependencies does not fit into a ConfigMap")
    return Resolution(needed.source_hash, commit if needed.git else None, text)


def _hash_of(
    name: str, hashes: Mapping[Consumed, str | None], live: LiveWorkload | None
) -> str | None:
    return hashes.get(Consumed("ConfigMap", name)) or recorded_hashes(live).get(f"ConfigMap/{name}")
