"""Listening beyond this machine takes a token, or somebody who says that it shall go without."""

from __future__ import annotations

import ipaddress
import os

from llamadeploy.exceptions import ConfigurationError

TOKEN = "LLAMA_DEPLOY_TOKEN"  # noqa: S105 - the variable's name
INSECURE = "LLAMA_DEPLOY_INSECURE_NO_TOKEN"

MANUAL_CURE = f"set {TOKEN} in every process (or {INSECURE}=true)"
"""For servers that Python code starts."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, token: str | None, insecure: bool, *, what: str, cure: str) -> None:
    """Refuse to listen beyond loopback without a token.

    Args:
        insecure: it was asked for.
        what: names the setting of the host, for the message.
        cure: how to give a token, or to do without.

    Raises:
        ConfigurationError: say what to change.
    """
    if token or insecure or is_loopback(host):
        return
    raise ConfigurationError(
        f"{what}: '{host}' lets others in without a token: use 127.0.0.1, or {cure}"
    )


def insecure_by_environment() -> bool:
    """Whether ``LLAMA_DEPLOY_INSECURE_NO_TOKEN`` allows to listen without a token.

    Raises:
        ConfigurationError: it is neither true nor false.
    """
    text = os.environ.get(INSECURE, "").strip().lower()
    if text in ("1", "true", "yes"):
        return True
    if text in ("", "0", "false", "no"):
        return False
    raise ConfigurationError(f"{INSECURE} is {text!r}: it must be true or false")
