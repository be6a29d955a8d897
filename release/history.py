"""What the last release had: files of the newest tag ``v*`` before this commit."""

from __future__ import annotations

import subprocess
from pathlib import Path


def previous_tag(root: Path, version: str) -> str | None:
    """The newest release's tag that is not this version's own; ``None`` where there is none yet."""
    done = _git(root, "tag", "--list", "v*", "--merged", "HEAD", "--sort=-version:refname")
    tags = [tag for tag in done.stdout.split() if tag != f"v{version}"]
    return tags[0] if tags else None


def file_at(root: Path, tag: str, path: str) -> str | None:
    """A file's text at a tag; ``None`` where it was not there."""
    done = _git(root, "show", f"{tag}:{path}")
    return done.stdout if done.returncode == 0 else None


def files_at(root: Path, tag: str, folder: str) -> list[str]:
    """Paths of the files directly in a folder at a tag."""
    done = _git(root, "ls-tree", "--name-only", tag, f"{folder}/")
    return done.stdout.split()


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
