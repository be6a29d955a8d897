"""``LLAMADEPLOY_SOURCE``: which source a pod runs.

A JSON object with exactly one of

- ``git``: ``{"url", "ref"?, "commit"?, "credentialsDir"?, "knownHosts"?}``; the folder has a file
  for each key of a Secret (``username``, ``password``, ``token``, ``ssh-privatekey``,
  ``known_hosts``), ``knownHosts`` is a file. ``commit`` wins over ``ref``.
- ``configMap``: ``{"name", "dir"}``: the folder where the ConfigMap is mounted.
- ``image``: ``{}``: the working directory of the process.

and beside it ``envFiles`` (dotenv files in the source) and ``lock`` (a file with the pinned
dependencies, as ``resolve`` printed it).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llamadeploy.exceptions import ConfigurationError
from llamadeploy.settings import variable
from llamadeploy.spec.deployment import SourceSpec

MAX_SECRET = 1024 * 1024
"""Bytes of one mounted file: Kubernetes' limit of a Secret."""

Text = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class GitDocument(_Model):
    """A git repository; the URL may hold a login."""

    url: Text = Field(repr=False)
    ref: Text | None = None
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")] | None = None
    credentialsDir: Path | None = None
    knownHosts: Path | None = None


class ConfigMapDocument(_Model):
    """A mounted ConfigMap."""

    name: Text
    dir: Path


class ImageDocument(_Model):
    """The image that runs."""


class SourceDocument(_Model):
    """The whole of ``LLAMADEPLOY_SOURCE``."""

    git: GitDocument | None = None
    configMap: ConfigMapDocument | None = None
    image: ImageDocument | None = None
    envFiles: tuple[Text, ...] = ()
    lock: Path | None = None

    @model_validator(mode="after")
    def _one(self) -> SourceDocument:
        if sum(each is not None for each in (self.git, self.configMap, self.image)) != 1:
            raise ValueError("give exactly one of git, configMap, image")
        return self

    @classmethod
    def parse(cls, data: dict[str, Any] | None) -> SourceDocument:
        """From the settings' field.

        Raises:
            ConfigurationError: it is missing or wrong; no value of it is shown.
        """
        name = variable("source")
        if data is None:
            raise ConfigurationError(f'{name} is not set: give it JSON such as {{"image": {{}}}}')
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            found = [
                f"{'.'.join(map(str, each['loc'])) or 'the object'}: {each['msg']}"
                for each in error.errors(include_input=False, include_url=False)
            ]
            raise ConfigurationError(f"{name}: {'; '.join(found)}") from None


def git_spec(document: GitDocument) -> SourceSpec:
    """The source to fetch, with what is mounted for it. Blocking.

    Raises:
        ConfigurationError: a mounted file cannot be read.
    """
    spec = SourceSpec(type="git", url=document.url, ref=document.commit or document.ref)
    if document.credentialsDir is not None:
        spec.credentials = _files(document.credentialsDir)
    if document.knownHosts is not None:
        spec.known_hosts = _read(document.knownHosts)
    return spec


def _files(folder: Path) -> dict[str, str]:
    try:
        names = sorted(path for path in folder.iterdir() if not path.name.startswith(".."))
    except OSError as error:
        raise ConfigurationError(
            f"the git credentials in {folder} cannot be read ({error.strerror}); mount the Secret"
        ) from None
    # A token in a file often ends with a line break; keys keep theirs.
    return {
        path.name: _read(path) if path.name in ("ssh-privatekey", "known_hosts")
        else _read(path).strip()
        for path in names if path.is_file()
    }  # fmt: skip


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"{path} cannot be read: {reason}; mount a text") from None
