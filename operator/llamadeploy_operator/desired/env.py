"""Environment variables: those of ``llamadeploy.settings.PodSettings``, and the user's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamadeploy.settings import PREFIX, PodSettings, variable
from llamadeploy.spec.manifest import AWSQueue
from llamadeploy.spec.manifest_common import EnvVar, KeySelector
from llamadeploy_operator import names
from llamadeploy_operator.desired.addresses import (
    HTTP_PROXY,
    HTTPS_PROXY,
    INDEX_URL,
    QUEUE_URL,
    STATE_STORE_URI,
)
from llamadeploy_operator.desired.context import OperatorDefaults
from llamadeploy_operator.desired.plain import canonical, plain
from llamadeploy_operator.desired.plan import AMQP_PORT, REDIS_PORT, Plan
from llamadeploy_operator.errors import SpecError

Env = list[dict[str, Any]]

BROKER_USER = "llamadeploy"


def setting(field: str, value: object) -> dict[str, Any]:
    """One field of ``PodSettings`` in the clear, literally."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, dict | list):
        text = canonical(value)
    else:
        text = str(plain(value))
    return expanding(field, text.replace("$(", "$$("))


def expanding(field: str, text: str) -> dict[str, Any]:
    """One field in which Kubernetes expands ``$(NAME)`` of earlier variables."""
    return {"name": _variable(field), "value": text}


def secret(field: str, name: str, key: str) -> dict[str, Any]:
    """One field of ``PodSettings`` out of a Secret."""
    return from_secret(_variable(field), name, key)


def from_secret(variable_: str, name: str, key: str) -> dict[str, Any]:
    """A variable out of a Secret."""
    return {"name": variable_, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def process_env(plan: Plan) -> Env:
    """What every process of the deployment reads: who it is, its queue, keys and logs."""
    internal = names.internal_secret(plan.owner.name)
    return [
        setting("deployment", plan.owner.name),
        setting("namespace", plan.topic_namespace),
        setting("log_format", plan.defaults.log_format),
        setting("log_level", plan.defaults.log_level),
        secret("api_token", internal, names.API_TOKEN),
        _signing_keys(plan),
        *_queue(plan),
    ]


def store_env(plan: Plan) -> Env:
    """How the state store is reached by whoever opens it."""
    store = plan.state_store
    if store is None:
        return [setting("state_store_uri", "memory://")]
    if store.managed is not None:
        host = plan.host(names.state_store(plan.owner.name))
        return [
            secret("state_store_password", names.internal_secret(plan.owner.name),
                   names.STORE_PASSWORD),
            expanding("state_store_uri",
                      f"redis://:$({variable('state_store_password')})@{host}:{REDIS_PORT}/0"),
        ]  # fmt: skip
    if store.uri_from is not None:
        return [_selected("state_store_uri", store.uri_from.secret_key_ref)]
    return [secret("state_store_uri", names.addresses_secret(plan.owner.name), STATE_STORE_URI)]


def installer_env(plan: Plan) -> Env:
    """What resolving and preparing read beyond the source: the package index."""
    return _confidential(plan, variable("index_url"), plan.defaults.index_url, INDEX_URL)


def network_env(plan: Plan) -> Env:
    """Proxies and certificates, as programs of every kind read them."""
    defaults = plan.defaults
    env = _confidential(plan, "HTTP_PROXY", defaults.http_proxy, HTTP_PROXY)
    env += _confidential(plan, "HTTPS_PROXY", defaults.https_proxy, HTTPS_PROXY)
    if env:
        env.append({"name": "NO_PROXY", "value": _no_proxy(defaults)})
    if defaults.ca_bundle:
        env += [{"name": name, "value": CA_FILE} for name in CA_VARIABLES]
    return env


CA_FOLDER = "/etc/llamadeploy/ca"
CA_FILE = f"{CA_FOLDER}/ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")


def user_env(variables: Iterable[EnvVar], field: str) -> Env:
    """The user's own variables.

    Args:
        field: where they stand in the spec, for errors.

    Raises:
        SpecError: a name is ours, or appears twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(variables):
        at = f"{field}[{index}].name"
        if item.name.startswith(PREFIX):
            raise SpecError(
                at, f"'{item.name}' is set by the operator", f"use a name without {PREFIX}"
            )
        if item.name in found:
            raise SpecError(at, f"the variable '{item.name}' appears twice", "keep one of them")
        found[item.name] = plain(item)
    return list(found.values())


def merged(*parts: Env) -> Env:
    """One list, each name once: the last one's value, at the first one's place."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for item in part:
            found[item["name"]] = item
    return list(found.values())


def _variable(field: str) -> str:
    if field not in PodSettings.model_fields:
        raise AssertionError(f"PodSettings has no field {field!r}")
    return variable(field)


def _signing_keys(plan: Plan) -> dict[str, Any]:
    if plan.spec.signing_key_from is not None:
        return _selected("signing_keys", plan.spec.signing_key_from.secret_key_ref)
    return secret("signing_keys", names.internal_secret(plan.owner.name), names.SIGNING_KEY)


def _queue(plan: Plan) -> Env:
    kind = plan.queue.type
    env = [setting("queue_type", kind)]
    if kind == "simple":
        token = f"worker:$({variable('api_token')})@"
        url = plan.simple_queue_url.replace("://", f"://{token}")
        return [*env, expanding("queue_url", url)]
    if isinstance(plan.queue.aws, AWSQueue) or kind == "aws":
        return [*env, *_aws(plan)]
    if plan.managed_queue:
        env += _managed_queue(plan)
    elif plan.broker is not None and plan.broker.url_from is not None:
        env.append(_selected("queue_url", plan.broker.url_from.secret_key_ref))
    elif plan.broker is not None and plan.broker.url is not None:
        env.append(secret("queue_url", names.addresses_secret(plan.owner.name), QUEUE_URL))
    else:
        raise SpecError(
            "messageQueue",
            f"{kind} has no address",
            f"give {kind}.url or {kind}.urlFrom" + (", or managed" if kind != "kafka" else ""),
        )
    options = _options(plan)
    return [*env, setting("queue_options", options)] if options else env


def _managed_queue(plan: Plan) -> Env:
    password = secret(
        "queue_password", names.internal_secret(plan.owner.name), names.QUEUE_PASSWORD
    )
    host = plan.host(names.queue(plan.owner.name))
    expanded = f"$({variable('queue_password')})"
    if plan.queue.type == "rabbitmq":
        url = f"amqp://{BROKER_USER}:{expanded}@{host}:{AMQP_PORT}/"
    else:
        url = f"redis://:{expanded}@{host}:{REDIS_PORT}/0"
    return [password, expanding("queue_url", url)]


def _options(plan: Plan) -> dict[str, Any]:
    if plan.queue.type == "redis":
        redis = plan.queue.redis
        return {"exclusive_mode": bool(redis and redis.exclusive_mode)}
    if plan.queue.type == "rabbitmq" and plan.rabbitmq.exchange_name is not None:
        return {"exchange_name": plan.rabbitmq.exchange_name}
    return {}


def _aws(plan: Plan) -> Env:
    section = plan.queue.aws or AWSQueue()
    env: Env = []
    options = {"aws_region": section.region} if section.region is not None else {}
    for field, option, origin in (
        ("queue_access_key_id", "aws_access_key_id", section.access_key_id_from),
        ("queue_secret_access_key", "aws_secret_access_key", section.secret_access_key_from),
    ):
        if origin is not None:
            env.append(_selected(field, origin.secret_key_ref))
            options[option] = f"$({variable(field)})"
    return [*env, expanding("queue_options", canonical(options))] if options else env


def _selected(field: str, selector: KeySelector) -> dict[str, Any]:
    # Never optional: a process without its address would start with another one.
    return secret(field, selector.name, selector.key)


def _confidential(plan: Plan, name: str, value: str | None, key: str) -> Env:
    if not value:
        return []
    if "@" in value:
        return [from_secret(name, names.addresses_secret(plan.owner.name), key)]
    return [{"name": name, "value": value}]


def _no_proxy(defaults: OperatorDefaults) -> str:
    inside = ("localhost", "127.0.0.1", ".svc", f".svc.{defaults.cluster_domain}")
    return ",".join((*inside, *filter(None, (defaults.no_proxy or "").split(","))))
