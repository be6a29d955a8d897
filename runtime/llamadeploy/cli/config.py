"""``llamactl config``: profiles."""

from __future__ import annotations

import click
from pydantic import HttpUrl, TypeAdapter, ValidationError

from llamadeploy.cli.output import Columns, output_option, print_records
from llamadeploy.cli.profiles import Config, Profile

HTTP_URL = TypeAdapter(HttpUrl)


@click.group()
@click.pass_context
def config(ctx: click.Context) -> None:
    """Manage configuration profiles."""
    ctx.obj = Config.load(ctx.find_root().params["config"])


@config.command("get-profiles")
@output_option()
@click.pass_obj
def get_profiles(config: Config, output: str) -> None:
    """List all profiles."""
    records = [
        {"name": name, "current": name == config.current_profile, **profile.model_dump()}
        for name, profile in config.profiles.items()
    ]
    columns: Columns = {
        "CURRENT": lambda record: "*" if record["current"] else " ",
        "PROFILE": "name",
        "SERVER": "server",
    }
    print_records(records, columns, output, "There are no profiles.")


@config.command("current-profile")
@click.pass_obj
def current_profile(config: Config) -> None:
    """Print the name of the current profile."""
    click.echo(config.current_profile)


@config.command("use-profile")
@click.argument("profile")
@click.pass_obj
def use_profile(config: Config, profile: str) -> None:
    """Make PROFILE the current one."""
    config.require(profile)
    config.current_profile = profile
    config.write()


@config.command("set-profile-vars")
@click.argument("param")
@click.argument("value")
@click.pass_obj
def set_profile_vars(config: Config, param: str, value: str) -> None:
    """Set PARAM (server, insecure or timeout) of the current profile to VALUE."""
    name = param.strip().lower()
    if name not in Profile.model_fields:
        known = ", ".join(Profile.model_fields)
        raise click.ClickException(f"Unknown parameter '{param}'. A profile has: {known}.")
    current = config.require(config.current_profile)
    try:
        if name == "server":
            HTTP_URL.validate_python(value)
        changed = Profile.model_validate({**current.model_dump(), name: value})
    except ValidationError as error:
        reason = "; ".join(item["msg"] for item in error.errors())
        raise click.ClickException(
            f"Error setting {name}={value} for profile '{config.current_profile}': {reason}"
        ) from error
    config.profiles[config.current_profile] = changed
    config.write()
    click.echo(f"Set {name}={value} for profile '{config.current_profile}'")


@config.command("delete-profile")
@click.argument("profile")
@click.pass_obj
def delete_profile(config: Config, profile: str) -> None:
    """Delete PROFILE."""
    config.require(profile)
    if profile == config.current_profile:
        raise click.ClickException(
            f"Cannot delete profile '{profile}' because it is currently in use. "
            "Switch to another profile with 'llamactl config use-profile' first."
        )
    del config.profiles[profile]
    config.write()
    click.echo(f"Profile '{profile}' has been deleted.")


@config.command("rename-profile")
@click.argument("old_name")
@click.argument("new_name")
@click.pass_obj
def rename_profile(config: Config, old_name: str, new_name: str) -> None:
    """Rename the profile OLD_NAME to NEW_NAME."""
    config.require(old_name)
    if new_name in config.profiles:
        raise click.ClickException(f"Profile '{new_name}' already exists in the config file.")
    config.profiles[new_name] = config.profiles.pop(old_name)
    if config.current_profile == old_name:
        config.current_profile = new_name
    config.write()
    click.echo(f"Profile '{old_name}' has been renamed to '{new_name}'.")
