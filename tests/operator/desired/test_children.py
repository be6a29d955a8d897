"""Which children there are, and what changes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llamadeploy_operator import names
from llamadeploy_operator.desired import (
    BadResolutionError,
    Capabilities,
    ChildKey,
    Consumed,
    LiveWorkload,
    OperatorDefaults,
    Pin,
    choose_pin,
    consumed,
    deployment_children,
    kept,
    needed,
    notices,
    parse_resolution,
    read_resolution,
    scaling,
    service_children,
)
from llamadeploy_operator.errors import SpecError

CODE = {"configMap": {"name": "code"}}
SERVICE = {"name": "echo", "source": CODE, "path": "echo:workflow"}
GIT = {"git": {"url": "https://example.org/x.git", "ref": "main"}}
SHARED = {
    "messageQueue": {"type": "redis", "redis": {"url": "redis://r", "exclusiveMode": True}},
    "controlPlane": {"stateStore": {"uri": "postgresql://db/x"}},
}


def kinds(children: list[Any]) -> set[str]:
    return {f"{each['kind']}/{each['metadata']['name']}" for each in children}


def one(children: list[Any], kind: str) -> Any:
    (found,) = [each for each in children if each["kind"] == kind]
    return found


def worker(context: Any) -> Any:
    return one(service_children(context), "Deployment")


def as_live(context: Any) -> Any:
    """The context once its worker Deployment is applied."""
    manifest = worker(context)
    live = LiveWorkload(manifest["spec"]["template"], manifest["spec"]["replicas"])
    return replace(context, live={manifest["metadata"]["name"]: live})


class TestWhichOnes:
    def test_simple_has_no_orchestrator_and_one_recreated_control_plane(self, case: Any) -> None:
        found = case({"controlPlane": {"replicas": 1}})
        assert not [each for each in kinds(found.children) if "orchestrator" in each]
        plane = found.child("Deployment", "app-control-plane")["spec"]
        assert (plane["replicas"], plane["strategy"]) == (1, {"type": "Recreate"})
        ports = found.child("Service", "app-control-plane")["spec"]["ports"]
        assert [(each["name"], each["port"]) for each in ports] == [
            ("http", 8000), ("queue", 8001), ("metrics", 9090)
        ]  # fmt: skip

    @pytest.mark.parametrize("uri", ["memory://", "sqlite:////data/x.db"])
    def test_nor_do_memory_and_sqlite(self, case: Any, uri: str) -> None:
        found = case({**SHARED, "controlPlane": {"stateStore": {"uri": uri}}})
        assert "Deployment/app-orchestrator" not in kinds(found.children)
        assert found.child("Deployment", "app-control-plane")["spec"]["replicas"] == 1

    def test_shared_ones_have_replicas_and_budgets(self, case: Any) -> None:
        plane = {**SHARED["controlPlane"], "replicas": 2}
        found = case({**SHARED, "controlPlane": plane, "orchestrator": {"replicas": 3}})
        assert found.child("Deployment", "app-orchestrator")["spec"]["replicas"] == 3
        for name in ("app-control-plane", "app-orchestrator"):
            budget = found.child("PodDisruptionBudget", name)["spec"]
            assert budget["maxUnavailable"] == 1
            assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert "PodDisruptionBudget" not in str(kinds(case(SHARED).children))

    @pytest.mark.parametrize(("scheme", "runs"), [("redis", True), ("sqlite", False), (None, True)])
    def test_the_scheme_in_a_secret_counts(self, case: Any, scheme: str | None, runs: bool) -> None:
        store = {"stateStore": {"uriFrom": {"secretKeyRef": {"name": "s", "key": "u"}}}}
        context = case({**SHARED, "controlPlane": store}).deployment
        found = kinds(deployment_children(replace(context, state_store_scheme=scheme)))
        assert ("Deployment/app-orchestrator" in found) is runs

    @pytest.mark.parametrize(
        ("plane", "told"),
        [({}, ["StateNotDurable"]), ({"stateStore": {"uri": "memory://"}}, ["StateNotDurable"]),
         ({"stateStore": {"managed": {}}}, []), ({"stateStore": {"uri": "redis://r"}}, [])],
    )  # fmt: skip
    def test_forgetful_stores_are_told_of(self, case: Any, plane: Any, told: list[str]) -> None:
        found = notices(case({"controlPlane": plane}).deployment)
        assert [str(reason) for reason, _ in found] == told

    def test_pod_monitor_where_its_api_is(self, case: Any) -> None:
        context = case({}).deployment
        assert "PodMonitor/app-config" not in kinds(deployment_children(context))
        able = replace(context, capabilities=Capabilities(pod_monitor=True))
        assert "PodMonitor/app-config" in kinds(deployment_children(able))

    def test_volumes_follow_the_deletion_policy(self, case: Any) -> None:
        for policy in ("Delete", "Retain"):
            queue = {"type": "redis", "managed": {}}
            found = case({"deletionPolicy": policy, "messageQueue": queue})
            policies = found.child("StatefulSet", "app-queue")["spec"][
                "persistentVolumeClaimRetentionPolicy"
            ]
            assert policies == {"whenDeleted": policy, "whenScaled": "Retain"}

    def test_only_what_the_user_set_is_projected(self, case: Any) -> None:
        found = case({"services": [{**SERVICE, "timeoutSeconds": 5.5, "env": None}]})
        spec = found.child("WorkflowService", "app-echo")["spec"]
        assert spec == {
            "deploymentRef": {"name": "app"}, "serviceName": "echo", "source": CODE,
            "path": "echo:workflow", "timeoutSeconds": 5.5,
        }  # fmt: skip

    def test_two_services_of_one_name(self, case: Any) -> None:
        with pytest.raises(SpecError, match=r"services\[1\].name: 'echo' appears twice"):
            case({"services": [SERVICE, SERVICE]})


class TestRolling:
    def test_a_changed_secret_rolls_once(self, case: Any) -> None:
        env = [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
        context = case({"services": [{**SERVICE, "env": env}]}).services[0]
        key = Consumed("Secret", "s")
        assert key in consumed(context.spec)
        first = as_live(context)
        assert worker(first) == worker(context)
        changed = replace(first, hashes={**first.hashes, key: "new"})
        assert worker(changed) != worker(first)
        assert worker(as_live(changed)) == worker(changed)

    def test_an_unreadable_one_changes_nothing_and_heals(self, case: Any) -> None:
        live = as_live(case({"services": [SERVICE]}).services[0])
        lost = replace(live, hashes=dict.fromkeys(live.hashes))
        assert worker(lost) == worker(live)
        assert worker(replace(lost, hashes={})) == worker(live)
        back = replace(lost, hashes=live.hashes)
        assert worker(back) == worker(live)

    def test_connections_roll_workers_and_control_planes(self, case: Any) -> None:
        store = {"stateStore": {"uriFrom": {"secretKeyRef": {"name": "state", "key": "u"}}}}
        found = case({**SHARED, "controlPlane": store, "services": [SERVICE]})
        other = {Consumed("Secret", "state"): "new"}
        for context, build in (
            (found.deployment, deployment_children), (found.services[0], service_children)
        ):  # fmt: skip
            changed = replace(context, hashes={**context.hashes, **other})
            before, after = build(context), build(changed)
            names_ = [
                each["metadata"]["name"]
                for each, now in zip(before, after, strict=True)
                if each != now
            ]
            assert names_ and all(
                name.endswith(("control-plane", "orchestrator", "worker")) for name in names_
            )

    def test_an_address_in_the_spec_rolls_too(self, case: Any) -> None:
        def template(uri: str) -> Any:
            spec = {**SHARED, "controlPlane": {"stateStore": {"uri": uri}}}
            return case(spec).child("Deployment", "app-control-plane")["spec"]["template"]

        assert template("postgresql://a/x") != template("postgresql://b/x")

    def test_overlays_consume_what_their_environment_names(self, case: Any) -> None:
        container = {
            "name": "worker",
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "s"}}],
        }
        overlay = {"spec": {"containers": [container]}}
        context = case({"services": [{**SERVICE, "podTemplate": overlay}]}).services[0]
        assert consumed(context.spec) == {
            Consumed("ConfigMap", "code"), Consumed("ConfigMap", "c"), Consumed("Secret", "s")
        }  # fmt: skip


class TestUpgrades:
    def test_a_new_operator_changes_no_template(self, case: Any) -> None:
        spec = {
            "services": [SERVICE], "messageQueue": {"type": "rabbitmq", "managed": {}},
            "controlPlane": {"stateStore": {"managed": {}}},
            "ui": {"name": "web", "source": CODE},
        }  # fmt: skip
        old = case(spec)
        new_images = {
            "runtime_image": "registry.example.org/llamadeploy:9", "redis_image": "redis:9",
            "rabbitmq_image": "rabbitmq:9", "ui_image": "node:99",
        }  # fmt: skip
        defaults = replace(old.deployment.defaults, **new_images)
        pin = choose_pin(old.deployment.spec, defaults, old.deployment.pin)
        assert pin == old.deployment.pin
        context = replace(old.deployment, defaults=defaults, pin=pin)
        assert deployment_children(context) == deployment_children(old.deployment)

    def test_a_version_moves_the_runtime_and_not_the_broker(self, case: Any) -> None:
        context = case({}).deployment
        defaults = OperatorDefaults(runtime_image="r/l:2", redis_image="redis:9")
        spec = context.spec.model_copy(update={"version": "0.3"})
        pin = choose_pin(spec, defaults, context.pin)
        assert pin.image == "r/l:0.3" and pin.redis_image == context.pin.redis_image
        assert choose_pin(spec, defaults, pin) == pin
        auto = replace(defaults, runtime_upgrade="Auto")
        assert choose_pin(context.spec, auto, context.pin).image == "r/l:2"

    def test_images_that_were_not_recorded_are_taken_now(self, case: Any) -> None:
        context = case({}).deployment
        old = replace(context.pin, ui_image="")
        assert choose_pin(context.spec, context.defaults, old) == context.pin

    @pytest.mark.parametrize(
        ("image", "expected"),
        [("host:5000/a/b", "host:5000/a/b:1"), ("a/b@sha256:00", "a/b:1"), ("b:2@sha256:0", "b:1")],
    )
    def test_tags_are_replaced(self, case: Any, image: str, expected: str) -> None:
        spec = case({"version": "1"}).deployment.spec
        defaults = OperatorDefaults(runtime_image=image, image_prefix="m/")
        assert choose_pin(spec, defaults, None).image == f"m/{expected}"
        assert isinstance(choose_pin(spec, defaults, None), Pin)


class TestSources:
    def test_a_git_source_is_resolved_first(self, case: Any) -> None:
        context = replace(
            case({"services": [{**SERVICE, "source": GIT}]}).services[0], resolution=None
        )
        children = service_children(context)
        assert [each["kind"] for each in children] == ["Job"]
        job = children[0]
        assert job["metadata"]["name"] == needed(context).job_name
        pod = job["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["containers"][0]["command"] == ["llamadeploy", "resolve"]

    def test_a_new_source_leaves_the_pods_and_lets_them_scale(self, case: Any) -> None:
        live = as_live(case({"services": [{**SERVICE, "source": GIT, "replicas": 2}]}).services[0])
        git = live.spec.source.git.model_copy(update={"ref": "v2"})
        source = live.spec.source.model_copy(update={"git": git})
        moved = replace(live, spec=live.spec.model_copy(update={"source": source, "path": "n:x"}))
        children = service_children(replace(moved, replicas=5))
        deployment = one(children, "Deployment")
        assert one(children, "Job")
        assert deployment["spec"]["template"] == worker(live)["spec"]["template"]
        assert deployment["spec"]["replicas"] == 5
        lock = needed(live).config_map_name
        assert kept(moved) == set() and lock  # without dependencies no pod mounts a lock

    def test_live_locks_are_kept(self, case: Any) -> None:
        service = {**SERVICE, "source": GIT, "pythonDependencies": ["httpx"]}
        live = as_live(case({"services": [service]}).services[0])
        assert kept(live) == {ChildKey("ConfigMap", needed(live).config_map_name)}

    def test_locks_of_former_revisions_are_kept(self, case: Any) -> None:
        """Their pods may have to start again, and a rollback must find them."""
        context, locks = None, []
        for version in range(6):
            service = {**SERVICE, "pythonDependencies": [f"httpx=={version}"]}
            fresh = case({"services": [service]}).services[0]
            context = as_live(replace(fresh, live=context.live if context else {}))
            locks.append(needed(context).config_map_name)
            found = {key.name for key in kept(context)}
            assert found == set(locks[-4:])
            assert worker(context)["spec"]["template"] == (context.live["app-echo-worker"].template)

    def test_a_lock_is_read_back(self, case: Any) -> None:
        service = {**SERVICE, "source": GIT, "pythonDependencies": ["httpx"]}
        context = case({"services": [service]}).services[0]
        lock = one(service_children(context), "ConfigMap")
        assert read_resolution(lock) == context.resolution
        assert lock["immutable"] is True
        assert read_resolution({"metadata": {}, "data": {}}) is None

    def test_what_resolves_anew(self, case: Any) -> None:
        def found(**fields: Any) -> Any:
            return case({"services": [{**SERVICE, "source": GIT, **fields}]}).services[0]

        first = needed(found()).source_hash
        assert needed(found(replicas=3, env=[{"name": "A", "value": "b"}])).source_hash == first
        again = replace(found(), owner=replace(found().owner, reload="2026-11-22"))
        others = [
            needed(again),
            needed(found(pythonDependencies=["httpx"])),
            needed(found(source={"git": {"url": "https://example.org/x.git", "ref": "v2"}})),
        ]
        assert len({first, *(each.source_hash for each in others)}) == 4
        assert needed(case({"services": [SERVICE]}).services[0]) is None

    def test_files_of_a_config_map_count_where_they_list_dependencies(self, case: Any) -> None:
        service = {**SERVICE, "pythonDependencies": ["-r requirements.txt"]}
        context = case({"services": [service]}).services[0]
        key = Consumed("ConfigMap", "code")
        other = replace(context, hashes={**context.hashes, key: "new"})
        assert needed(other).source_hash != needed(context).source_hash
        live = as_live(context)
        assert needed(replace(live, hashes={})).source_hash == needed(context).source_hash

    def test_a_jobs_log(self, case: Any) -> None:
        service = {**SERVICE, "source": GIT, "pythonDependencies": ["httpx"]}
        wanted = needed(case({"services": [service]}).services[0])
        result = json.dumps({"commit": "a" * 40, "lock": "httpx==1 --hash=sha256:0\n"})
        found = parse_resolution(wanted, f"fetching\n{{}}\n{result}\n")
        assert (found.commit, found.requirements) == ("a" * 40, "httpx==1 --hash=sha256:0\n")
        assert wanted.met_by(found)
        for log in (
            "", "killed", '{"commit": "main", "lock": "x"}', '{"commit": null, "lock": "x"}',
            json.dumps({"commit": "a" * 40, "lock": ""}),
            json.dumps({"commit": "a" * 40, "lock": "x" * 1_000_000}),
        ):  # fmt: skip
            with pytest.raises(BadResolutionError):
                parse_resolution(wanted, log)

    def test_the_environments_python_runs_the_worker(self, case: Any) -> None:
        service = {**SERVICE, "pythonDependencies": ["httpx"]}
        pod = worker(case({"services": [service]}).services[0])["spec"]["template"]["spec"]
        assert pod["containers"][0]["command"] == [
            "/srv/llamadeploy/code/.llamadeploy/environment/bin/python", "-P", "-m",
            "llamadeploy", "worker",
        ]  # fmt: skip

    def test_an_image_with_dependencies_prepares_in_that_image(self, case: Any) -> None:
        source = {"image": {"image": "mine:1"}}
        service = {**SERVICE, "source": source, "pythonDependencies": ["httpx"]}
        pod = worker(case({"services": [service]}).services[0])["spec"]["template"]["spec"]
        assert pod["initContainers"][0]["image"] == pod["containers"][0]["image"] == "mine:1"

    def test_an_overlays_image_prepares_too(self, case: Any) -> None:
        """The environment's Python is that image's."""
        overlay = {"spec": {"containers": [{"name": "worker", "image": "patched:1"}]}}
        service = {**SERVICE, "pythonDependencies": ["httpx"], "podTemplate": overlay}
        context = case({"services": [service]}).services[0]
        pod = worker(context)["spec"]["template"]["spec"]
        assert pod["initContainers"][0]["image"] == pod["containers"][0]["image"] == "patched:1"
        (job,) = service_children(replace(context, resolution=None))
        assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "patched:1"

    def test_what_a_ui_cannot_have(self, case: Any) -> None:
        for extra in ({"pythonDependencies": ["x"]}, {"envFiles": ["x"]}):
            with pytest.raises(SpecError, match=r"ui\."):
                _ = case({"ui": {"name": "web", "source": CODE, **extra}}).children


class TestReplicas:
    @pytest.mark.parametrize("suspend", [False, True])
    def test_suspended_workers_are_none(self, case: Any, suspend: bool) -> None:
        found = case({"suspend": suspend, "services": [{**SERVICE, "replicas": 3}]})
        assert worker(found.services[0])["spec"]["replicas"] == (0 if suspend else 3)
        assert found.child("Deployment", "app-control-plane")["spec"]["replicas"] == 1

    def test_broadcast_is_capped_with_a_cure(self, case: Any) -> None:
        queue = {"messageQueue": {"type": "redis", "redis": {"url": "redis://r"}}}
        service = {**SERVICE, "replicas": 3}
        capped = case({**queue, "services": [service]}).services[0]
        assert worker(capped)["spec"]["replicas"] == 1
        assert "exclusive_mode: true" in str(scaling(capped).limited)
        meant = case({**queue, "services": [{**service, "broadcast": True}]}).services[0]
        assert (worker(meant)["spec"]["replicas"], scaling(meant).limited) == (3, None)

    def test_partitions_cap(self, case: Any) -> None:
        queue = {"messageQueue": {"type": "kafka", "kafka": {"url": "k:9092"}}}
        context = case({**queue, "services": [{**SERVICE, "replicas": 5}]}).services[0]
        assert scaling(context).replicas == 5
        assert scaling(replace(context, partitions=2)).replicas == 2

    def test_orphans_and_namesakes_run_nothing(self, case: Any) -> None:
        live = as_live(case({"services": [{**SERVICE, "replicas": 2}]}).services[0])
        for context in (replace(live, parent=None), replace(live, conflict="other")):
            (deployment,) = service_children(context)
            assert deployment["spec"]["replicas"] == 0
            assert deployment["spec"]["template"] == worker(live)["spec"]["template"]
            assert service_children(replace(context, live={})) == []

    @pytest.mark.parametrize(
        ("timeout", "grace"), [(None, 75), (5, 35), (120, 135), (86400, 615), (90.5, 105)]
    )
    def test_the_grace_follows_the_time_out(
        self, case: Callable[..., Any], timeout: float | None, grace: int
    ) -> None:
        found = case({"services": [{**SERVICE, "timeoutSeconds": timeout}]}).services[0]
        pod = worker(found)["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == grace
        assert worker(found)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_names_are_of_the_owner(case: Any) -> None:
    found = case({"services": [{**SERVICE, "name": "Big_Name"}]})
    name = names.workflow_service("app", "Big_Name")
    child = found.child("WorkflowService", name)
    assert child["spec"]["serviceName"] == "Big_Name"
    assert child["metadata"]["annotations"]["llamadeploy.io/service-name"] == "Big_Name"
    assert found.services[0].service == "Big_Name"
