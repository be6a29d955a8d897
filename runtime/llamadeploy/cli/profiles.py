"""The configuration file of ``llamactl``: named profiles, one of them current."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Self

import click
import yaml
from platformdirs import user_config_dir
from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEFAULT_PROFILE_NAME = "default"


class Profile(BaseModel):
    """Where an API server is and how to talk to it; ``timeout`` in seconds."""

    model_config = ConfigDict(extra="forbid")

    server: str = "http://localhost:4501"
    insecure: bool = False
    timeout: float = Field(default=120.0, gt=0)


def default_config_path() -> Path:
    """The file used without ``--config``; in the platform's folder for user configuration."""
    return Path(user_config_dir("llamactl", appauthor=False)) / "config.yaml"


class Config(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    current_profile: str = DEFAULT_PROFILE_NAME
    profiles: dict[str, Profile] = Field(default_factory=lambda: {DEFAULT_PROFILE_NAME: Profile()})
    path: Path = Field(default_factory=default_config_path, exclude=True)

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read the file; without one, the default profile.

        Raises:
            click.ClickException: a file that was named does not exist, or the file is wrong.
        """
        file = path or default_config_path()
        if not file.exists():
            if path is not None:
                raise click.ClickException(f"Configuration file {path} does not exist.")
            return cls(path=file)
        try:
            content = yaml.safe_load(file.read_text()) or {}
            return cls.model_validate({**content, "path": file})
        except (yaml.YAMLError, ValidationError, TypeError) as error:
            raise click.ClickException(f"Configuration file {file} is wrong: {error}") from error

    def write(self) -> None:
        """Replace the file as a whole, so that an interrupted write leaves the old one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".config")
        with os.fdopen(handle, "w") as file:
            yaml.safe_dump(self.model_dump(mode="json"), file)
        Path(name).replace(self.path)

    def require(self, name: str) -> Profile:
        """A profile by its name.

        Raises:
            click.ClickException: there is none of that name.
        """
        if name not in self.profiles:
            raise click.ClickException(f"Cannot find profile '{name}' in the config file.")
        return self.profiles[name]


def complete_profiles(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of profiles, for the shell."""
    try:
        config = Config.load(ctx.params.get("config"))
    except click.ClickException:
        return []
    return [name for name in config.profiles if name.startswith(incomplete)]
