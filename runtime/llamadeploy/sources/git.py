"""Source ``git``: one commit of a repository, without its history."""

from __future__ import annotations

import shutil
from pathlib import Path

from llamadeploy.sources.base import FetchedSource, SourceContext, SourceError
from llamadeploy.sources.git_access import GitSettings, git_access
from llamadeploy.sources.git_address import GitAddress
from llamadeploy.sources.git_command import Git
from llamadeploy.sources.git_refs import GitRemote
from llamadeploy.sources.git_tree import export_tree
from llamadeploy.spec.deployment import SourceSpec

SCRATCH = ".git-fetch"
"""Below the holder; no repository's folder begins with a dot."""


def fetch_git(source: SourceSpec, holder: Path, context: SourceContext) -> FetchedSource:
    """Write the commit that ``source.ref`` names now into ``holder/<repository's name>``.

    Submodules are left out. What the fetch itself needs is below ``holder`` too, and removed.

    Raises:
        SourceError: the URL is wrong, the repository or the ref not there or not for us, or the
            tree is not safe to write.
        CommandCancelledError: ``context.cancellation`` was cancelled.
    """
    if not source.url:
        raise SourceError("source: a git source has no URL; write what to clone")
    address = GitAddress.parse(source.url)
    settings = GitSettings.from_env()
    access = git_access(source, address, settings)
    scratch, root = holder / SCRATCH, holder / address.name
    scratch.mkdir(mode=0o700)
    try:
        context.progress(f"fetching {address.url}" + (f" at {source.ref}" if source.ref else ""))
        git = Git(scratch, address, access, settings, context)
        commit = GitRemote(git, address, access).fetch(source.ref)
        export_tree(git, commit, root)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(scratch)
    origin = {"type": "git", "url": address.url, "ref": source.ref or "", "commit": commit}
    return FetchedSource(root, origin)
