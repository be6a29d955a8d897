"""Whatever is in the file, the answer is a deployment or a SpecError, never another exception."""

from __future__ import annotations

import copy
import random

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamadeploy.spec import SpecError, load_deployments

FILE = """
name: d
control-plane: {port: 1, cors_origins: [a], state_store_uri: "sqlite:///x"}
message-queue: {type: redis, host: h, port: 1, exclusive_mode: true}
default-service: echo
services:
  echo:
    name: Echo
    source: {type: git, name: "https://u:p@h/r@v"}
    path: workflow:w
    env: {KEY: value}
    env-files: [.env]
    replicas: 1
ui: {name: ui, source: {type: local, name: src}}
"""

MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data: {workflow.py: "w = 1"}
---
apiVersion: v1
kind: Secret
metadata: {name: state}
stringData: {uri: "sqlite:///x"}
data: {a: Yg==}
---
apiVersion: llamadeploy.io/v1alpha1
kind: Deployment
metadata: {name: q, namespace: n}
spec:
  defaultService: echo
  controlPlane: {stateStore: {uriFrom: {secretKeyRef: {name: state, key: uri}}}}
  messageQueue: {type: redis, redis: {url: "redis://h"}}
  services:
  - name: echo
    source: {configMap: {name: code, items: [{key: workflow.py, path: w.py}]}}
    path: workflow:w
    env: [{name: A, valueFrom: {secretKeyRef: {name: state, key: a}}}]
---
apiVersion: llamadeploy.io/v1alpha1
kind: WorkflowService
metadata: {name: team}
spec: {deploymentRef: {name: q}, source: {image: {}}, path: "w:w"}
"""

JUNK = [
    None,
    "",
    "x",
    "\n",
    0,
    -1,
    1e308,
    True,
    [],
    {},
    [None],
    {"x": None},
    [[{}]],
    {"a": {"b": 1}},
]


def mutate(value, rng):
    """Replace, remove or add one value somewhere in a tree."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        action = rng.random()
        if action < 0.1:
            del value[key]
        elif action < 0.2:
            value[key + rng.choice(["s", "x", "\n", " "])] = value.pop(key)
        else:
            value[key] = mutate(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        index = rng.randrange(len(value))
        value[index] = mutate(value[index], rng)
        return value
    return copy.deepcopy(rng.choice(JUNK))


def load_or_refuse(text: str) -> bool:
    """Whether the text was refused, with at least one problem that has a cure."""
    try:
        load_deployments(text, file="d.yaml")
    except SpecError as error:
        assert error.errors
        for problem in error.errors:
            assert problem.wrong
            assert problem.right
            assert str(problem).startswith("d.yaml")
        return True
    return False


@pytest.mark.parametrize("text", [FILE, MANIFEST])
def test_hundreds_of_damaged_files(text):
    documents = list(yaml.safe_load_all(text))
    assert not load_or_refuse(text)
    refused = 0
    for seed in range(300):
        rng = random.Random(seed)
        damaged = copy.deepcopy(documents)
        for _ in range(rng.randint(1, 3)):
            index = rng.randrange(len(damaged))
            damaged[index] = mutate(damaged[index], rng)
        refused += load_or_refuse(yaml.safe_dump_all(damaged))
    assert refused > 150


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@ \n\t,?<\\0~é\x00\ud800", max_size=40))
def test_any_text(text):
    load_or_refuse(text)
