"""A service's or user interface's source inside a pod: its settings, volumes and mounts.

``prepare`` (an init container) puts the code below :data:`FOLDER`, and what it installs into
``.llamadeploy`` there. A source that is an image is not copied: the container runs that image, and
the code is its working directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llamadeploy.spec.manifest import Component, ConfigMapSource, GitSource, ServiceFields
from llamadeploy.spec.manifest_common import KeySelector
from llamadeploy_operator import names
from llamadeploy_operator.desired.context import Manifest, Resolution
from llamadeploy_operator.desired.plain import canonical, plain, without_none

FOLDER = "/srv/llamadeploy"
PREPARED = ".llamadeploy"
"""Below the source: ``environment`` with the dependencies, ``variables.json`` of the env files."""

CREDENTIALS_FOLDER = "/etc/llamadeploy/git-credentials"
KNOWN_HOSTS_FOLDER = "/etc/llamadeploy/git-known-hosts"
CONFIG_MAP_FOLDER = "/etc/llamadeploy/source"
LOCK_FOLDER = "/etc/llamadeploy/lock"
LOCK_FILE = f"{LOCK_FOLDER}/requirements.txt"

SOURCE_SIZE = "4Gi"
"""Limit of code and installed packages together."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class PodSource:
    """How a pod gets the code.

    Attributes:
        prepared: whether an init container has to put something in place.
        source_dir: where the code is then; ``.`` is an image's working directory.
        document: ``LLAMADEPLOY_SOURCE``; ``None`` for an image.
        confidential: the document holds a login.
        volumes, mounts: of the containers that fetch.
    """

    prepared: bool
    source_dir: str
    document: dict[str, Any] | None = field(repr=False)
    confidential: bool = False
    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()

    @property
    def text(self) -> str:
        """The document as JSON."""
        return canonical(self.document)


def runtime_image(item: Component, pinned: str) -> str:
    """The image in which a component's code is prepared, and a service's runs: its source's, else
    the one that its overlay gives the worker, else the pinned one. An environment fits the Python
    that made it alone, so all of them have to be the same."""
    source = item.source.image
    if source is not None and source.image is not None and isinstance(item, ServiceFields):
        return source.image
    spec = (item.pod_template or {}).get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    for each in containers if isinstance(containers, list) else ():
        if isinstance(each, dict) and each.get("name") == names.WORKER and each.get("image"):
            return str(each["image"])
    return pinned


def pod_source(item: Component, resolution: Resolution | None) -> PodSource:
    """The source of a component.

    Args:
        resolution: what is pinned; ``None`` in the Job that finds it out.
    """
    extra: dict[str, Any] = {"envFiles": item.env_files} if item.env_files else {}
    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()
    if resolution is not None and resolution.requirements:
        # The volume itself is added by whoever knows the ConfigMap's name.
        mounts = (_read_only("lock", LOCK_FOLDER),)
        extra["lock"] = LOCK_FILE
    source = item.source
    if source.image is not None:
        prepared = bool(item.python_dependencies or item.env_files)
        folder = f"{FOLDER}/image" if prepared else "."
        document = {"image": {}, **extra} if prepared else None
        return PodSource(prepared, folder, document, volumes=volumes, mounts=mounts)
    if source.git is not None:
        return _git(source.git, resolution, extra, volumes, mounts)
    assert source.config_map is not None  # noqa: S101 - the model has exactly one
    return _config_map(source.config_map, extra, volumes, mounts)


def _git(
    git: GitSource,
    resolution: Resolution | None,
    extra: dict[str, Any],
    volumes: tuple[Manifest, ...],
    mounts: tuple[Manifest, ...],
) -> PodSource:
    url = git.url.get_secret_value()
    body = {"url": url, "ref": git.ref, "commit": resolution.commit if resolution else None}
    if git.credentials_secret_ref is not None:
        body["credentialsDir"] = CREDENTIALS_FOLDER
        secret = {"secretName": git.credentials_secret_ref.name, "defaultMode": 0o440}
        volumes += ({"name": "git-credentials", "secret": secret},)
        mounts += (_read_only("git-credentials", CREDENTIALS_FOLDER),)
    if git.known_hosts_from is not None:
        body["knownHosts"] = f"{KNOWN_HOSTS_FOLDER}/known_hosts"
        origin = git.known_hosts_from
        if origin.secret_key_ref is not None:
            volumes += (_file_volume("secret", "secretName", origin.secret_key_ref),)
        elif origin.config_map_key_ref is not None:
            volumes += (_file_volume("configMap", "name", origin.config_map_key_ref),)
        mounts += (_read_only("git-known-hosts", KNOWN_HOSTS_FOLDER),)
    document = {"git": without_none(body), **extra}
    folder = f"{FOLDER}/{_repository_name(url)}"
    # ssh://git@host has a user and no login; a password or a user over HTTP is one.
    confidential = "@" in url and not re.match(r"(ssh://)?[^:/@\s]+@", url)
    return PodSource(True, folder, document, confidential, volumes, mounts)


def _config_map(
    source: ConfigMapSource,
    extra: dict[str, Any],
    volumes: tuple[Manifest, ...],
    mounts: tuple[Manifest, ...],
) -> PodSource:
    # The files are copied: a mounted ConfigMap changes under a running worker.
    body: dict[str, Any] = {"name": source.name}
    if source.items:
        body["items"] = plain(source.items)
    volumes += ({"name": "source-files", "configMap": body},)
    mounts += (_read_only("source-files", CONFIG_MAP_FOLDER),)
    document = {"configMap": {"name": source.name, "dir": CONFIG_MAP_FOLDER}, **extra}
    return PodSource(True, f"{FOLDER}/{source.name}", document, volumes=volumes, mounts=mounts)


def _file_volume(kind: str, name_key: str, selector: KeySelector) -> Manifest:
    items = [{"key": selector.key, "path": "known_hosts"}]
    return {"name": "git-known-hosts", kind: {name_key: selector.name, "items": items}}


def _read_only(name: str, path: str) -> Manifest:
    return {"name": name, "mountPath": path, "readOnly": True}


def _repository_name(url: str) -> str:
    """The repository's name: ``path`` may begin with it, as it can on a laptop."""
    path = urlsplit(url).path if "://" in url else url.rpartition(":")[2]
    name = path.rstrip("/").rpartition("/")[2].removesuffix(".git")
    return name if _PLAIN_NAME.fullmatch(name) and name != ".." else "source"
