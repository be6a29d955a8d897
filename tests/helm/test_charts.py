"""What the charts render, looked at without a cluster."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from llamadeploy_operator import __version__
from llamadeploy_operator.cluster.rbac import KEDA_RULE, LEASE_RULE, POD_MONITOR_RULE, RULES
from llamadeploy_operator.desired import OperatorDefaults
from llamadeploy_operator.models.crd import CRDS
from llamadeploy_operator.settings import ENV_PREFIX, OPTIONS, OperatorSettings, from_options

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from helm import generate  # noqa: E402

CHART = "llamadeploy-operator"
DIGEST = "sha256:" + "a" * 64
SERVED = [rule.manifest() for rule in (*RULES, POD_MONITOR_RULE, KEDA_RULE)]


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def files(folder: Path) -> dict[str, str]:
    """Path -> text of the charts' files."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.glob("llamadeploy-*/**/*"))
        if path.is_file()
    }


def test_lint(run_helm: Any) -> None:
    for chart in ("llamadeploy-crds", CHART):
        run_helm("lint", "--strict", ROOT / "helm" / chart)


def test_what_is_written_from_the_code_is_up_to_date(tmp_path: Path) -> None:
    copy = tmp_path / "helm"
    shutil.copytree(ROOT / "helm", copy)
    generate.main(copy)
    assert files(copy) == files(ROOT / "helm"), "run `make charts`"


def test_the_version_is_the_projects() -> None:
    for path in (ROOT / "helm").glob("*/Chart.yaml"):
        chart = yaml.safe_load(path.read_text())
        assert chart["version"] == chart["appVersion"] == __version__


def test_definitions_are_the_models_and_are_kept(render: Any) -> None:
    found = {item["metadata"]["name"]: item for item in render("llamadeploy-crds")}
    assert len(found) == len(CRDS)
    for build in CRDS.values():
        crd = found[build()["metadata"]["name"]]
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == build()


def test_every_value_is_in_the_schema() -> None:
    chart = ROOT / "helm" / CHART

    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        properties = schema["properties"]
        assert set(values) == set(properties) - {"global"}, path
        assert schema["additionalProperties"] is False, path
        for name, value in values.items():
            if "properties" in properties[name]:
                compare(value, properties[name], f"{path}.{name}")

    schema = json.loads((chart / "values.schema.json").read_text())
    compare(yaml.safe_load((chart / "values.yaml").read_text()), schema, "values")


def environment(objects: list[dict[str, Any]]) -> dict[str, str]:
    """Of the operator's container, what is written there in full."""
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def settings(environ: dict[str, str]) -> OperatorSettings:
    """As the operator's process reads its environment."""

    @click.command()
    def command(**options: Any) -> Any:
        return from_options(options, pod_namespace="sys")

    for option in OPTIONS:
        option(command)
    runner_environ = pytest.MonkeyPatch()
    with runner_environ.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        found = command.main([], standalone_mode=False, auto_envvar_prefix=ENV_PREFIX)
    assert isinstance(found, OperatorSettings)
    return found


def test_every_setting_reaches_the_operator(render: Any, values: Any, tmp_path: Path) -> None:
    environ = environment(render(CHART, "--values", values("full", "team")))
    parameters = {item.name for item in _parameters()}
    assert {f"{ENV_PREFIX}_{name.upper()}" for name in parameters} == set(environ)
    bundle = tmp_path / "ca.crt"
    bundle.write_text("PEM")
    assert environ[f"{ENV_PREFIX}_CA_BUNDLE_FILE"] == "/etc/llamadeploy/ca/ca.crt"
    found = settings({**environ, f"{ENV_PREFIX}_CA_BUNDLE_FILE": str(bundle)})
    expected = {
        "namespaces": ("team",), "leader_election": True, "lease_namespace": "team",
        "lease_name": "some-lease", "http_host": "127.0.0.1", "http_port": 9191, "concurrency": 5,
        "resync_seconds": 1_000_000.0, "watch_seconds": 20, "drain_seconds": 90.0,
        "control_plane_url_template": "http://{service}.{namespace}.example:8000",
        "log_format": "text", "log_level": "DEBUG",
    }  # fmt: skip
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.defaults == OperatorDefaults(
        runtime_image="runtime:1", redis_image="redis:1", rabbitmq_image="rabbitmq:1",
        ui_image="node:1", image_prefix="registry.local/mirror/", image_pull_policy="Never",
        image_pull_secrets=("first", "second"), index_url="https://pypi.local/simple",
        ca_bundle="PEM", http_proxy="http://proxy.local:3128",
        https_proxy="http://proxy.local:3129", no_proxy=".local,10.0.0.0/8",
        runtime_upgrade="Auto", log_format="text", log_level="WARNING",
        cluster_domain="example.local", operator_namespace="sys",
        admitted_namespaces=("web", "apps"),
    )  # fmt: skip


def _parameters() -> list[click.Parameter]:
    command = click.command()(lambda: None)
    for option in OPTIONS:
        option(command)
    return command.params


def test_defaults_of_the_chart_are_the_operators(render: Any) -> None:
    found = settings(environment(render(CHART)))
    image = f"ghcr.io/llamadeploy/llamadeploy:{__version__}"
    assert found.defaults == OperatorDefaults(runtime_image=image, operator_namespace="sys")
    bare = settings({})
    for name in (
        "concurrency", "resync_seconds", "watch_seconds", "http_port", "log_level", "drain_seconds",
        "control_plane_url_template",
    ):  # fmt: skip
        assert getattr(found, name) == getattr(bare, name), name
    assert (found.lease_namespace, found.lease_name) == ("sys", "release-llamadeploy-operator")


@pytest.mark.parametrize(
    ("given", "image"),
    [
        ((), f"ghcr.io/llamadeploy/llamadeploy:{__version__}"),
        (("image.tag=v7",), "ghcr.io/llamadeploy/llamadeploy:v7"),
        ((f"image.digest={DIGEST}",), f"ghcr.io/llamadeploy/llamadeploy@{DIGEST}"),
        (("imagePrefix=mirror.local:5000/x/", "image.repository=own", "image.tag=v7"),
         "mirror.local:5000/x/own:v7"),
    ],
)  # fmt: skip
def test_image(render: Any, given: tuple[str, ...], image: str) -> None:
    arguments = [part for item in given for part in ("--set", item)]
    objects = render(CHART, *arguments)
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    # The operator puts the prefix in front of this one itself.
    runtime = environment(objects)[f"{ENV_PREFIX}_RUNTIME_IMAGE"]
    assert runtime == image.removeprefix("mirror.local:5000/x/")


def test_rights_are_the_codes_list(render: Any) -> None:
    objects = render(CHART)
    own = [
        item for item in objects
        if item["kind"] == "ClusterRole" and not item["metadata"]["name"].endswith(("view", "edit"))
    ]  # fmt: skip
    assert [item["rules"] for item in own] == [SERVED]
    lease = only(objects, "Role")
    assert lease["rules"] == [LEASE_RULE.manifest()]
    assert lease["metadata"]["namespace"] == "sys"
    bound = only(objects, "ClusterRoleBinding")
    assert bound["roleRef"]["name"] == own[0]["metadata"]["name"]
    account = only(objects, "ServiceAccount")["metadata"]["name"]
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "sys"}]


def test_named_namespaces_need_no_cluster_wide_right(render: Any) -> None:
    objects = render(CHART, "--set", "namespaces={a,b,a},rbac.aggregate=false")
    assert not [item for item in objects if item["kind"].startswith("Cluster")]
    assert all("namespace" in item["metadata"] for item in objects)
    roles = [item for item in objects if item["kind"] == "Role"]
    found = {item["metadata"]["namespace"]: item["rules"] for item in roles}
    assert len(roles) == 3
    assert found == {"a": SERVED, "b": SERVED, "sys": [LEASE_RULE.manifest()]}
    bindings = [item for item in objects if item["kind"] == "RoleBinding"]
    for role, binding in zip(roles, bindings, strict=True):
        assert role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        assert role["metadata"]["name"] == binding["roleRef"]["name"]


def test_roles_for_people_say_what_they_give(render: Any) -> None:
    roles = {
        item["metadata"]["name"].rsplit("-", 1)[1]: item
        for item in render(CHART) if item["kind"] == "ClusterRole"
    }  # fmt: skip
    edit = roles["edit"]
    assert (
        "Creating one is creating pods"
        in edit["metadata"]["annotations"]["llamadeploy.io/description"]
    )
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {name for name in edit["metadata"]["labels"] if name.startswith(prefix)} == {
        f"{prefix}admin", f"{prefix}edit"
    }  # fmt: skip
    assert f"{prefix}view" in roles["view"]["metadata"]["labels"]
    assert not any("status" in name for rule in edit["rules"] for name in rule["resources"])
    assert {verb for rule in roles["view"]["rules"] for verb in rule["verbs"]} == {
        "get", "list", "watch"
    }  # fmt: skip


def test_network_policies_of_deployments_know_the_operators_pods(render: Any) -> None:
    labels = only(render(CHART), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert OperatorDefaults().operator_labels.items() <= labels.items()


def test_prometheus_finds_the_metrics(render: Any) -> None:
    switches = "metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.labels.release=prom"
    objects = render(CHART, "--set", switches)
    service, monitor = only(objects, "Service"), only(objects, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("replicas=two", "replicas"),
        ("replica=2", "replica"),
        ("settings.concurency=2", "concurency"),
        ("settings.concurrency=65", "concurrency"),
        ("settings.runtimeUpgrade=auto", "runtimeUpgrade"),
        ("settings.indexUrl=pypi.local", "indexUrl"),
        ("image.digest=sha256:abc", "digest"),
        ("namespaces=team", "namespaces"),
        ("namespaces={Team}", "namespaces"),
        ("settings.leaderElection=false", "write replicas: 1"),
        ("metrics.service=false,metrics.serviceMonitor.enabled=true", "metrics.service: true"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(run_helm: Any, given: str, named: str) -> None:
    chart = ROOT / "helm" / CHART
    done = run_helm("template", "release", chart, "--set", given, check=False)
    assert done.returncode != 0
    assert named in done.stderr
