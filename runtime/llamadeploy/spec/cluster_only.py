"""Fields of a manifest without effect on a laptop: named to the user, kept for the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llamadeploy.spec.documents import Document
from llamadeploy.spec.problems import Path, format_path
from llamadeploy.spec.validation import value_at


@dataclass
class ClusterOnly:
    """Collects ``DeploymentSpec.ignored`` and ``DeploymentSpec.cluster_only``."""

    ignored: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Name something that is not a field of the Deployment."""
        self.ignored.append(text)

    def take(
        self, document: Document, path: Path, keep_as: Path, *, whole: Path | None = None
    ) -> None:
        """Note the field at ``path``, if the document has it.

        Args:
            keep_as: where the value goes in ``values``; a list there is appended to.
            whole: the value to keep, where that is not the field's own but one around it.
        """
        if value_at(document.data, path) is None:
            return
        prefix = ""
        if document.data.get("kind") == "WorkflowService":
            prefix = f"wfs/{document.data['metadata']['name']}: "
        self.ignored.append(prefix + format_path(path))
        merge_into(self.values, keep_as, value_at(document.data, whole or path))


def merge_into(target: dict[str, Any], path: Path, value: Any) -> None:
    """Set ``value`` at ``path``, making mappings on the way."""
    for part in path[:-1]:
        target = target.setdefault(str(part), {})
    target[str(path[-1])] = value


def deep_merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``extra`` over it: mappings are merged, lists appended, the rest replaced."""
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = deep_merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *value]
        else:
            merged[key] = value
    return merged
