"""A software bill of materials (CycloneDX 1.6) of what the image's lock installs.

Packages of the base image's own distribution are not in it: scan the built image for these.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<when>[^\\]+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of a lock file.

    Attributes:
        marker: the environment that it is for; empty: every one.
        hashes: SHA-256 of the archives that may be installed.
    """

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def pins(lock: str) -> Iterator[Pin]:
    """The packages of a lock file, in its order.

    Raises:
        ValueError: a line that is neither a pin nor a hash, such as a URL, or a pin without hashes.
    """
    for block in re.split(r"\n(?=\S)", lock.strip()):
        if block.startswith("#"):
            continue
        match = _PIN.match(block)
        hashes = tuple(_HASH.findall(block))
        if match is None or not hashes:
            raise ValueError(f"no pin with hashes: {block.splitlines()[0]!r}")
        yield Pin(match["name"], match["version"], (match["when"] or "").strip(), hashes)


def bill(lock: str, version: str) -> dict[str, Any]:
    """The document; the same for the same lock and version.

    Args:
        version: of this project.
    """
    name = "llamadeploy-operator"
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{name}@{version}\n{lock}")
    root = {
        "type": "application",
        "bom-ref": name,
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    components = [_component(pin) for pin in pins(lock)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [each["bom-ref"] for each in components]}],
    }


def _component(pin: Pin) -> dict[str, Any]:
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', pin.name).lower()}@{pin.version}"
    properties = [{"name": "marker", "value": pin.marker}] if pin.marker else []
    # An archive's hash is no hash of the package: each platform has one of its own.
    references = [
        {
            "type": "distribution",
            "url": purl,
            "hashes": [{"alg": "SHA-256", "content": content} for content in pin.hashes],
        }
    ]
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": pin.name,
        "version": pin.version,
        "purl": purl,
        "externalReferences": references,
    }
    return component | ({"properties": properties} if properties else {})
