"""What the operator can be told, by flags and by ``LLAMADEPLOY_OPERATOR_*`` in the environment."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from llamadeploy_operator.desired import OperatorDefaults
from llamadeploy_operator.draining import DRAIN_SECONDS
from llamadeploy_operator.watch_limits import REQUEST_SECONDS

ENV_PREFIX = "LLAMADEPLOY_OPERATOR"


@dataclass(frozen=True)
class OperatorSettings:
    """Settings of the operator's process; what reaches into pods is in ``defaults``.

    Attributes:
        namespaces: served namespaces; empty: all.
        leader_election: whether a Lease is needed to work.
        lease_namespace, lease_name: of the Lease.
        identity: the holder written into the Lease; unique to this process.
        http_host, http_port: of ``/healthz``, ``/readyz``, ``/metrics``.
        concurrency: custom resources that are reconciled at the same time.
        resync_seconds: each custom resource is looked at again at least this often.
        watch_seconds: for which a watch is asked; see ``watch_limits``.
        drain_seconds: what the tasks of a removed service get to end by themselves.
        control_plane_url_template: of control planes' URLs; ``None``: their Services' names.
    """

    namespaces: tuple[str, ...] = ()
    leader_election: bool = True
    lease_namespace: str = "llamadeploy-system"
    lease_name: str = "llamadeploy-operator"
    identity: str = ""
    http_host: str = "0.0.0.0"  # noqa: S104 - probes come from the node
    http_port: int = 9090
    concurrency: int = 8
    resync_seconds: float = 600.0
    watch_seconds: int = REQUEST_SECONDS
    drain_seconds: float = DRAIN_SECONDS
    control_plane_url_template: str | None = None
    log_format: Literal["json", "text"] = "json"
    log_level: str = "INFO"
    defaults: OperatorDefaults = field(default_factory=OperatorDefaults)

    @property
    def scopes(self) -> tuple[str | None, ...]:
        """The served namespaces; ``None`` stands for all."""
        return self.namespaces or (None,)


def make_identity() -> str:
    """A name for this process that no other has: the pod's (or host's) and something random."""
    name = os.environ.get("POD_NAME") or socket.gethostname()
    return f"{name}_{uuid.uuid4().hex[:8]}"


def _option(*names: str, **arguments: Any) -> Callable[[Any], Any]:
    return click.option(*names, show_envvar=True, **arguments)


def _url_template(context: Any, parameter: Any, value: str | None) -> str | None:
    if not value:
        return None
    try:
        url = value.format(service="s", namespace="n")
    except (KeyError, IndexError, ValueError, AttributeError):
        url = ""
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("write a URL with {service} and {namespace}, and no other braces")
    return value


OPTIONS = (
    _option(
        "--namespace", "namespaces", multiple=True, metavar="NAME",
        help="Serve this namespace only; may be repeated (in the environment: separated by "
        "spaces). Then no cluster-wide permission is needed. Omitted: all namespaces.",
    ),
    _option(
        "--leader-election/--no-leader-election", default=True, show_default=True,
        help="Work only while holding a Lease, so that several replicas may run. Switch it off "
        "only where there is never more than one.",
    ),
    _option(
        "--lease-namespace", metavar="NAME",
        help="Namespace of the Lease. Omitted: the pod's own, or llamadeploy-system.",
    ),
    _option("--lease-name", default="llamadeploy-operator", show_default=True, metavar="NAME",
            help="Name of the Lease."),
    _option("--http-host", default="0.0.0.0", show_default=True, metavar="ADDRESS",  # noqa: S104
            help="Address of /healthz, /readyz and /metrics."),
    _option("--http-port", default=9090, show_default=True, type=click.IntRange(0, 65535),
            help="Port of /healthz, /readyz and /metrics; 0: a free one, told in the log."),
    _option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 64),
            help="Custom resources that are reconciled at the same time."),
    _option("--resync-seconds", default=600.0, show_default=True, type=click.FloatRange(0.1),
            help="Look at each custom resource at least this often, whatever the watches say."),
    _option("--watch-seconds", default=REQUEST_SECONDS, show_default=True,
            type=click.IntRange(5, REQUEST_SECONDS),
            help="Open each watch anew this often; the API server gives a sign of life at least as "
            "often. A watch without one is given up after 1.25 times this, and makes /healthz fail "
            "after 2.75 times this."),
    _option("--drain-seconds", default=DRAIN_SECONDS, show_default=True, type=click.FloatRange(0),
            help="A service that is removed from a Deployment stays until its tasks have ended; "
            "those that have not after this time are cancelled."),
    _option("--control-plane-url-template", metavar="URL", callback=_url_template,
            help="Where control planes are reached by an operator that runs outside the cluster, "
            "such as http://{service}.{namespace}.example:8000. Omitted: by their Services' "
            "names."),
    _option("--log-format", default="json", show_default=True,
            type=click.Choice(["json", "text"]), help="Format of the operator's own log."),
    _option("--log-level", default="INFO", show_default=True,
            type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
            help="Least level of the operator's own log."),
    _option("--runtime-image", metavar="IMAGE:TAG",
            help="Image of control planes, orchestrators and workers. A Deployment with "
            "spec.version gets that as the tag. Omitted: "
            f"{OperatorDefaults().runtime_image}."),
    _option("--runtime-upgrade", default="Pinned", show_default=True,
            type=click.Choice(["Pinned", "Auto"]),
            help="Pinned: a new operator leaves running Deployments with the image they have. "
            "Auto: it moves those without spec.version to its own."),
    _option("--redis-image", metavar="IMAGE", help="Image of managed Redis servers."),
    _option("--rabbitmq-image", metavar="IMAGE", help="Image of managed RabbitMQ servers."),
    _option("--ui-image", metavar="IMAGE", help="Image with Node.js for user interfaces."),
    _option("--image-prefix", metavar="PREFIX",
            help="Put in front of all these images, for a mirror: registry.local/mirror/"),
    _option("--image-pull-policy", type=click.Choice(["Always", "IfNotPresent", "Never"]),
            help="imagePullPolicy of all containers. Omitted: Kubernetes decides."),
    _option("--image-pull-secret", "image_pull_secrets", multiple=True, metavar="NAME",
            help="Name of a pull Secret in each Deployment's namespace; may be repeated."),
    _option("--index-url", metavar="URL",
            help="Python package index that pods install from; may hold a login."),
    _option("--ca-bundle-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="PEM file with every authority that pods trust, in place of the image's own."),
    _option("--http-proxy", metavar="URL", help="HTTP_PROXY of pods that fetch sources."),
    _option("--https-proxy", metavar="URL", help="HTTPS_PROXY of pods that fetch sources."),
    _option("--no-proxy", metavar="HOSTS", help="NO_PROXY of pods that fetch sources."),
    _option("--pod-log-format", default="json", show_default=True,
            type=click.Choice(["json", "text"]), help="Log format of pods."),
    _option("--pod-log-level", default="INFO", show_default=True, metavar="LEVEL",
            help="Log level of pods."),
    _option("--cluster-domain", default="cluster.local", show_default=True, metavar="DOMAIN",
            help="DNS domain of the cluster."),
    _option("--admitted-namespace", "admitted_namespaces", multiple=True, metavar="NAME",
            help="Pods of this namespace may reach control planes and UIs; may be repeated."),
)  # fmt: skip
"""Of ``llamadeploy-operator``."""


def from_options(options: dict[str, Any], *, pod_namespace: str | None) -> OperatorSettings:
    """Parsed options -> settings."""
    own = pod_namespace or "llamadeploy-system"
    bundle: Path | None = options.get("ca_bundle_file")
    reach = {
        "image_pull_secrets": tuple(options["image_pull_secrets"]),
        "ca_bundle": bundle.read_text() if bundle else None,
        "runtime_upgrade": options["runtime_upgrade"],
        "log_format": options["pod_log_format"],
        "log_level": options["pod_log_level"],
        "cluster_domain": options["cluster_domain"],
        "operator_namespace": own,
        "admitted_namespaces": tuple(options["admitted_namespaces"]),
    }
    optional = (
        "runtime_image", "redis_image", "rabbitmq_image", "ui_image", "image_prefix",
        "image_pull_policy", "index_url", "http_proxy", "https_proxy", "no_proxy",
    )  # fmt: skip
    reach |= {name: options[name] for name in optional if options.get(name)}
    return OperatorSettings(
        namespaces=tuple(dict.fromkeys(options["namespaces"])),
        leader_election=options["leader_election"],
        lease_namespace=options.get("lease_namespace") or own,
        lease_name=options["lease_name"],
        identity=make_identity(),
        http_host=options["http_host"],
        http_port=options["http_port"],
        concurrency=options["concurrency"],
        resync_seconds=options["resync_seconds"],
        watch_seconds=options["watch_seconds"],
        drain_seconds=options["drain_seconds"],
        control_plane_url_template=options.get("control_plane_url_template") or None,
        log_format=options["log_format"],
        log_level=options["log_level"].upper(),
        defaults=OperatorDefaults(**reach),
    )
