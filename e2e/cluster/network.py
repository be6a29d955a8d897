"""A network namespace for one cluster: its addresses exist nowhere else. Needs root on Linux."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence


def run(*command: str) -> str:
    """What it printed.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


class Network:
    """A namespace with one way out: a pair of interfaces to the host.

    Attributes:
        name: of the namespace.
        address: of the node, reachable from the host.
    """

    def __init__(self) -> None:
        number = random.SystemRandom().randrange(1, 250 * 64)
        base = f"10.{200 + number // (64 * 64)}.{number // 64 % 64}.{number % 64 * 4}"
        self.name = f"llamadeploy-{number}"
        self._outside = f"ldep{number}"  # an interface's name has at most 15 characters
        prefix, last = base.rsplit(".", 1)
        self.gateway, self.address = (f"{prefix}.{int(last) + host}" for host in (1, 2))

    @property
    def enter(self) -> Sequence[str]:
        """In front of a command: it runs in here. ``ip netns exec`` would hide the cgroups from the
        kubelet."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def start(self) -> None:
        """Make it."""
        inside = ("ip", "-n", self.name)
        run("ip", "netns", "add", self.name)
        try:
            run("ip", "link", "add", self._outside, "type", "veth",
                "peer", "name", "eth0", "netns", self.name)  # fmt: skip
            run("ip", "addr", "add", f"{self.gateway}/30", "dev", self._outside)
            run("ip", "link", "set", self._outside, "up")
            run(*inside, "addr", "add", f"{self.address}/30", "dev", "eth0")
            run(*inside, "link", "set", "lo", "up")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "route", "add", "default", "via", self.gateway)
            for setting in ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.route_localnet=1"):
                run(*self.enter, "sysctl", "-qw", setting)
        except AssertionError:
            self.stop()
            raise

    def stop(self) -> None:
        """Remove it; idempotent."""
        for command in (
            ("ip", "link", "del", self._outside),
            ("ip", "netns", "del", self.name),
        ):
            subprocess.run(command, capture_output=True, check=False)
