"""A real Prometheus on a free port with a folder of its own; never the system's instance."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.brokers.servers import end_with_us, free_port, require, wait_until_up

PACKAGE = "prometheus"


def require_prometheus() -> str:
    """The server's program; ``promtool`` is beside it."""
    cure = f"apt-get install {PACKAGE} (or brew install prometheus)"
    return require(PACKAGE, lambda: shutil.which(PACKAGE), cure)


class PrometheusServer:
    """One server that scrapes once a second.

    Args:
        targets: ``host:port`` of what has ``/metrics``.
        rules: groups, as below ``groups`` of a rule file.
    """

    def __init__(
        self, folder: Path, targets: Sequence[str], rules: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        job = {"job_name": "us", "static_configs": [{"targets": list(targets)}]}
        config = {
            "global": {
                "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"
            },
            "rule_files": ["rules.yaml"],
            "scrape_configs": [job],
        }  # fmt: skip
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": list(rules)}))

    def start(self) -> None:
        """Start it and wait until it answers."""
        address = self.url.removeprefix("http://")
        command = [
            require_prometheus(), f"--config.file={self.folder}/prometheus.yaml",
            f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address={address}",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_us)
        wait_until_up(self._answers, self.process, self.folder / "log", 60)

    def stop(self) -> None:
        """End it; idempotent."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector of an expression: ``metric`` (labels) and ``value`` (time and text)."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The same over time: ``values`` of each series."""
        found: list[dict[str, Any]] = self._get(
            "query_range", query=expression, start=str(start), end=str(end), step=str(step)
        )["result"]
        return found

    def alerts(self) -> dict[str, str]:
        """Name of each alert that is pending or firing, and which of the two."""
        found = self._get("alerts")["alerts"]
        return {each["labels"]["alertname"]: each["state"] for each in found}

    def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        """The first true value of ``condition``."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        return found

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


@pytest.fixture
def prometheus() -> Iterator[Callable[..., PrometheusServer]]:
    """``prometheus(targets, rules)``: a running server; ended after the test."""
    require_prometheus()
    servers = []
    with tempfile.TemporaryDirectory(prefix="prometheus-", ignore_cleanup_errors=True) as folder:

        def start(*arguments: Any) -> PrometheusServer:
            server = PrometheusServer(Path(folder), *arguments)
            servers.append(server)
            server.start()
            return server

        yield start
        for server in servers:
            server.stop()
