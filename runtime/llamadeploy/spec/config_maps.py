"""Files -> ConfigMaps: keys cannot hold a slash, so paths may need ``items``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_BYTES = 1024 * 1024
"""What Kubernetes takes as the data of one ConfigMap."""

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


class ConfigMaps:
    """The ConfigMaps of a manifest; several services may take different files of one."""

    def __init__(self) -> None:
        self.data: dict[str, dict[str, str]] = {}

    def add(self, name: str, files: Mapping[str, str]) -> None:
        """Put ``files`` (relative path -> text) into the ConfigMap ``name``."""
        data = self.data.setdefault(name, {})
        for path, text in files.items():
            data[self._key(name, path, text)] = text

    def source(self, name: str, files: Mapping[str, str]) -> dict[str, Any]:
        """The ``configMap`` source with just ``files``, once everything was added."""
        pairs = [(self._key(name, path, text), path) for path, text in files.items()]
        plain = all(key == path for key, path in pairs)
        if plain and {key for key, _ in pairs} == set(self.data.get(name, {})):
            return {"name": name}
        return {"name": name, "items": [{"key": key, "path": path} for key, path in pairs]}

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of keys and values."""
        return {
            name: sum(len(key.encode()) + len(text.encode()) for key, text in data.items())
            for name, data in self.data.items()
        }

    def _key(self, name: str, path: str, text: str) -> str:
        """The key of a file: its path where that can be one and is not taken by another text."""
        data = self.data.get(name, {})
        stem = path if _KEY.fullmatch(path) else re.sub(r"[^-._a-zA-Z0-9]", "_", path)[:240]
        key, number = stem, 1
        while data.get(key, text) != text:
            number += 1
            key = f"{stem}.{number}"
        return key
