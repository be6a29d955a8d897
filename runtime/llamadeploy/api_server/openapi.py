"""Writes the OpenAPI documents of API server and control plane into files.

``python -m llamadeploy.api_server.openapi docs`` (``make openapi``); with ``--check`` it fails
where the files are not what it would write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from llamadeploy.api_server.app import create_app
from llamadeploy.control_plane.config import ControlPlaneConfig
from llamadeploy.control_plane.server import ControlPlaneServer
from llamadeploy.message_queues.simple.local import LocalMessageQueue
from llamadeploy.openapi import Document


def documents() -> dict[str, Document]:
    """The documents by their files' names."""

    class Nothing:
        """A backend that is never asked anything."""

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    plane = ControlPlaneServer(LocalMessageQueue(), config=ControlPlaneConfig.without_environment())
    backend: Any = Nothing()
    return {
        "apiserver.json": create_app(backend).openapi(),
        "control_plane.json": plane.app.openapi(),
    }


def write(folder: Path, *, check: bool = False) -> list[str]:
    """Write the documents; returns the names of the files that were not up to date.

    Args:
        check: leave the files as they are.
    """
    changed = []
    for name, document in documents().items():
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        path = folder / name
        if not path.exists() or path.read_text() != text:
            changed.append(name)
            if not check:
                path.write_text(text)
    return changed


def main(arguments: list[str]) -> int:
    """``[--check] FOLDER``; the exit code."""
    check = "--check" in arguments
    (folder,) = (each for each in arguments if each != "--check")
    changed = write(Path(folder), check=check)
    if check and changed:
        print(f"not up to date: {', '.join(changed)}; run `make openapi`", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
