"""ConfigMaps and Secrets of a multi-document file, and references into them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from llamadeploy.spec.documents import Document
from llamadeploy.spec.manifest_common import ConfigMapObject, KeySelector, SecretObject
from llamadeploy.spec.problems import Path, SpecProblem, suggest
from llamadeploy.spec.validation import validate


@dataclass
class _Object:
    document: Document
    namespace: str | None
    data: dict[str, str] = field(repr=False)


class Objects:
    """The file's ConfigMaps and Secrets, by kind and name."""

    def __init__(self, problems: list[SpecProblem]) -> None:
        self._problems = problems
        self._found: dict[tuple[str, str], list[_Object]] = {}

    def add(self, document: Document) -> None:
        """Read one ``kind: ConfigMap`` or ``kind: Secret``."""
        kind = document.data["kind"]
        model = SecretObject if kind == "Secret" else ConfigMapObject
        parsed = validate(model, document, self._problems, strict=True)
        if parsed is None:
            return
        data = dict(parsed.data or {})
        if isinstance(parsed, SecretObject):
            data = self._decode(document, data) | (parsed.string_data or {})
        name, namespace = parsed.metadata.name, parsed.metadata.namespace
        objects = self._found.setdefault((kind, name), [])
        if any(item.namespace == namespace for item in objects):
            wrong = f"a {kind} named '{name}' is in this file already"
            right = "give it another name"
            self._problems.append(document.problem(("metadata", "name"), wrong, right))
        objects.append(_Object(document, namespace, data))

    def _decode(self, document: Document, data: dict[str, str]) -> dict[str, str]:
        decoded = {}
        for key, value in data.items():
            try:
                decoded[key] = base64.b64decode(value, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                right = "encode it, or write it as it is under stringData"
                problem = document.problem(("data", key), "is not base64 of a text", right)
                self._problems.append(problem)
        return decoded

    def get(self, kind: str, name: str, namespace: str | None) -> dict[str, str] | None:
        """The data of an object, or None.

        Without a namespace on either side kubectl's current one would be taken, so that matches.
        """
        for item in self._found.get((kind, name), []):
            if namespace is None or item.namespace is None or item.namespace == namespace:
                return item.data
        return None

    def names(self, kind: str) -> list[str]:
        """The names of the file's objects of a kind."""
        return [name for found, name in self._found if found == kind]


@dataclass
class Resolver:
    """References of one document into the file's objects; misses become problems."""

    document: Document
    namespace: str | None
    objects: Objects
    problems: list[SpecProblem]

    def key(self, kind: str, selector: KeySelector, path: Path) -> str | None:
        """The value of one key; None where it is missing, which is a problem unless optional."""
        data = self.data(kind, selector.name, path, optional=bool(selector.optional))
        if data is None:
            return None
        if selector.key not in data and not selector.optional:
            wrong = f"the {kind} '{selector.name}' has no key '{selector.key}'"
            self.problem((*path, "key"), wrong, suggest(selector.key, data))
        return data.get(selector.key)

    def data(
        self, kind: str, name: str, path: Path, *, optional: bool = False
    ) -> dict[str, str] | None:
        """The whole data of an object."""
        data = self.objects.get(kind, name, self.namespace)
        if data is None and not optional:
            known = self.objects.names(kind)
            near = f" ({suggest(name, known, noun=f'{kind}s')})" if known else ""
            right = f"add a 'kind: {kind}' document of that name to it{near}"
            self.problem((*path, "name"), f"there is no {kind} '{name}' in this file", right)
        return data

    def problem(self, path: Path, wrong: str, right: str) -> None:
        """Note a problem of the document."""
        self.problems.append(self.document.problem(path, wrong, right))


def is_object(data: Any) -> bool:
    """Whether a document is a ConfigMap or Secret of Kubernetes itself."""
    return data.get("apiVersion") == "v1" and data.get("kind") in ("ConfigMap", "Secret")
