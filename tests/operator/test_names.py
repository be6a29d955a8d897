"""Names of children: DNS labels, short enough, never the same for two."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from llamadeploy.spec.names import RESOURCE_NAME, SERVICE_NAME
from llamadeploy_operator import names

DNS_1035 = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?")
OF_DEPLOYMENT = (
    names.control_plane, names.orchestrator, names.ui, names.queue, names.state_store,
    names.internal_secret, names.addresses_secret, names.source_secret, names.config,
    names.workers,
)  # fmt: skip

resource_names = st.from_regex(RESOURCE_NAME, fullmatch=True)
service_names = st.from_regex(SERVICE_NAME, fullmatch=True)


@given(resource_names, service_names)
def test_every_name_is_a_short_dns_label(owner: str, service: str) -> None:
    found = [make(owner) for make in OF_DEPLOYMENT]
    wfs = names.workflow_service(owner, service)
    found += [wfs, names.worker(wfs), names.worker(owner)]
    found += [names.resolver_job(owner, "f" * 32), names.lock_config_map(owner, "f" * 32)]
    for name in found:
        assert DNS_1035.fullmatch(name) and len(name) <= names.MAX_NAME
    assert len(set(found)) == len(found)


@given(st.text(max_size=200))
def test_every_label_is_valid(text: str) -> None:
    value = names.label_value(text)
    assert LABEL.fullmatch(value) and 0 < len(value) <= 63


@given(st.lists(st.tuples(resource_names, service_names), min_size=2, max_size=20, unique=True))
def test_two_services_never_share_a_name(pairs: list[tuple[str, str]]) -> None:
    found = [names.workflow_service(*pair) for pair in pairs]
    assert len(set(found)) == len(pairs)


def test_near_namesakes_differ() -> None:
    owners = ["rag", "rag-eval", "rag.eval", "rag-eval-x"]
    services = ["x", "eval-x", "eval_x", "eval.x", "Eval-x", "_x", "x_", "a" * 128, "a" * 127 + "b"]
    found = [names.workflow_service(*pair) for pair in itertools.product(owners, services)]
    assert len(set(found)) == len(found)
    children = [make(owner) for owner in (*owners, "9rag", "x-9rag") for make in OF_DEPLOYMENT]
    assert len(set(children)) == len(children)
    labels = [names.label_value(each) for each in (*services, "x-", "-x")]
    assert len(set(labels)) == len(labels)


def test_plain_names_stay_readable() -> None:
    assert names.control_plane("quickstart") == "quickstart-control-plane"
    assert names.workflow_service("quickstart", "echo") == "quickstart-echo"
    assert names.workflow_service("quickstart", "dummy_workflow").startswith(
        "quickstart-dummy-workflow-"
    )
    assert names.worker("quickstart-echo") == "quickstart-echo-worker"
    assert names.label_value("dummy_workflow") == "dummy_workflow"


def test_no_suffix_ends_with_another() -> None:
    """Else two owners could share a child: ``a`` with ``x-queue`` and ``a-x`` with ``queue``."""
    suffixes = [make("a").removeprefix("a-") for make in OF_DEPLOYMENT] + ["worker"]
    for one, other in itertools.permutations(suffixes, 2):
        assert not one.endswith(f"-{other}"), (one, other)


def test_labels_without_argo_cds() -> None:
    found = names.labels("app", names.WORKER, workflow_service="app-echo", service="echo")
    assert "app.kubernetes.io/instance" not in found
    assert set(found) <= names.RESERVED_LABELS
