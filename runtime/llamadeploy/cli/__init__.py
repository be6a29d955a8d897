"""``llamactl``, the command line. One module per command; each loads only what it needs."""

from llamadeploy.cli.main import llamactl, main

__all__ = ["llamactl", "main"]
