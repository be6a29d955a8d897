"""What the schema alone cannot say, in CEL: the API server enforces it when an object is written.

Only what one object tells is checked here, and nothing that a write to ``/scale`` could break: no
rule looks at a WorkflowService's ``replicas``. What needs other objects is a condition. The
laptop's models say the same in Python; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from llamadeploy.spec import autoscaling, manifest, manifest_common
from llamadeploy.spec.checks import STATE_STORE_SCHEMES
from llamadeploy.spec.names import RESERVED_SERVICE_NAMES


@dataclass(frozen=True, slots=True)
class Rule:
    """One validation rule.

    Attributes:
        rule: CEL; ``self`` is an object of the model. With ``oldSelf`` it is looked at on updates.
        message: what is wrong; what to write instead.
        field: the field that an error names, instead of the object.
        expression: CEL of a more precise message.
    """

    rule: str
    message: str
    field: str | None = None
    expression: str | None = None

    def schema(self) -> dict[str, str]:
        """The item of ``x-kubernetes-validations``."""
        found = {"rule": self.rule, "message": self.message}
        if self.field is not None:
            found["fieldPath"] = f".{self.field}"
        if self.expression is not None:
            found["messageExpression"] = self.expression
        return found


def _count(*fields: str) -> str:
    return " + ".join(f"(has(self.{field}) ? 1 : 0)" for field in fields)


def _one(*fields: str) -> Rule:
    listed = ", ".join(fields)
    return Rule(f"{_count(*fields)} == 1", f"write exactly one of {listed}")


def _addressed(kind: str) -> str:
    return f"(has(self.{kind}) && (has(self.{kind}.url) || has(self.{kind}.urlFrom)))"


_SIMPLE = "(!has(self.messageQueue) || self.messageQueue.type == 'simple')"
_STORE = "self.controlPlane.stateStore"
_HAS_STORE = f"has(self.controlPlane) && has({_STORE})"
_UNSHARED = (
    f"(!({_HAS_STORE}) || (has({_STORE}.uri) && ({_STORE}.uri.startsWith('memory:')"
    f" || {_STORE}.uri.startsWith('sqlite:'))))"
)
_SEVERAL = "(has(self.controlPlane) && has(self.controlPlane.replicas)"
_SEVERAL += " && self.controlPlane.replicas > 1)"
_OLD_STORE = "has(oldSelf.controlPlane) && has(oldSelf.controlPlane.stateStore)"
_MANAGED_STORE = f"({_HAS_STORE} && has({_STORE}.managed))"
_OLD_MANAGED_STORE = f"({_OLD_STORE} && has(oldSelf.controlPlane.stateStore.managed))"
_OTHER_QUEUE = "messageQueue.type redis, rabbitmq, kafka or aws"
_OTHER_STORE = "controlPlane.stateStore with managed, or the address of redis or postgresql"

_DEPLOYMENT = (
    Rule(
        "!has(self.defaultService) || !has(self.services) || size(self.services) == 0"
        " || self.services.exists(s, s.name == self.defaultService)",
        "defaultService is none of the services; write the name of one of them",
        field="defaultService",
        expression="'there is no service ' + self.defaultService"
        " + '; write the name of one of services'",
    ),
    Rule(
        f"!({_SIMPLE} && {_SEVERAL})",
        "the simple queue lives in the one control plane; write controlPlane.replicas: 1, or"
        f" {_OTHER_QUEUE}",
    ),
    Rule(
        f"!({_SIMPLE} && has(self.orchestrator))",
        f"with the simple queue the control plane orchestrates; remove orchestrator, or write"
        f" {_OTHER_QUEUE}",
    ),
    Rule(
        f"!({_UNSHARED} && {_SEVERAL})",
        "state in memory or SQLite belongs to the one control plane; write"
        f" controlPlane.replicas: 1, or {_OTHER_STORE}",
    ),
    Rule(
        f"!({_UNSHARED} && has(self.orchestrator))",
        "with state in memory or SQLite the control plane orchestrates; remove orchestrator, or"
        f" write {_OTHER_STORE}",
    ),
    Rule(
        "(has(self.messageQueue) ? self.messageQueue.type : 'simple')"
        " == (has(oldSelf.messageQueue) ? oldSelf.messageQueue.type : 'simple')",
        "messageQueue.type is immutable; delete the Deployment and create it with the other queue",
    ),
    Rule(
        "(has(self.messageQueue) && has(self.messageQueue.managed))"
        " == (has(oldSelf.messageQueue) && has(oldSelf.messageQueue.managed))",
        "a managed queue stays managed and an external one external; delete the Deployment and"
        " create it anew",
    ),
    Rule(
        f"{_MANAGED_STORE} == {_OLD_MANAGED_STORE}",
        "a managed state store stays managed and an external one external; delete the Deployment"
        " and create it anew",
    ),
)

_QUEUE = (
    *(
        Rule(
            f"self.type == '{kind}' || !has(self.{kind})",
            f"settings of {kind} need type: {kind}; remove {kind}, or change the type",
            field=kind,
        )
        for kind in ("simple", "redis", "rabbitmq", "kafka", "aws")
    ),
    Rule(
        "!has(self.managed) || self.type in ['redis', 'rabbitmq']",
        "managed can be had for redis and rabbitmq; change the type, or write the address of a"
        " broker of your own",
        field="managed",
    ),
    *(
        Rule(
            f"self.type != '{kind}' || has(self.managed) != {_addressed(kind)}",
            f"write either managed, or {kind}.url, or {kind}.urlFrom",
        )
        for kind in ("redis", "rabbitmq")
    ),
    Rule(f"self.type != 'kafka' || {_addressed('kafka')}", "write kafka.url or kafka.urlFrom"),
)

_BROKER = (
    Rule(
        "!(has(self.url) && has(self.urlFrom))",
        "write url or urlFrom, not both",
    ),
)


def _storage(field: str, default: str, convert: str = "") -> str:
    """Whether a field of ``storage`` is as before.

    Args:
        convert: CEL function to apply; what is int-or-string has no type without one.
    """

    def value(of: str) -> str:
        path = f"{of}.storage.{field}"
        return f"(has({of}.storage) && has({path}) ? {convert}({path}) : '{default}')"

    return f"{value('self')} == {value('oldSelf')}"


_AUTOSCALING = (
    _one("targetBacklog", "targetWaitSeconds"),
    Rule(
        "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
        "minReplicas is above maxReplicas; write at most maxReplicas",
        field="minReplicas",
    ),
    Rule(
        "!has(self.schedules) || self.schedules.all(s, s.minReplicas <= self.maxReplicas)",
        "a minReplicas of schedules is above maxReplicas; write at most maxReplicas",
        field="schedules",
    ),
)
_SCALED_ONCE = Rule(
    "!(has(self.replicas) && has(self.autoscaling))",
    "autoscaling changes the number of workers; remove replicas, or autoscaling",
    field="autoscaling",
)
_COMPETES = Rule(
    "!(has(self.autoscaling) && has(self.broadcast) && self.broadcast)",
    "with broadcast every worker runs every task, and more of them help none; write replicas"
    " instead of autoscaling",
    field="autoscaling",
)

_SERVICE_NAME = (
    *(
        Rule(
            f"self.name != '{name}'",
            f"the name {name} is reserved; give the service another name",
            field="name",
        )
        for name in sorted(RESERVED_SERVICE_NAMES)
    ),
)
_WFS_NAME = (
    *(
        Rule(
            f"!has(self.serviceName) || self.serviceName != '{name}'",
            f"the name {name} is reserved; give the service another name",
            field="serviceName",
        )
        for name in sorted(RESERVED_SERVICE_NAMES)
    ),
)
_PATH = (
    Rule(
        "!self.path.split(':')[0].endsWith('.py')",
        "path names a file; leave out the ending .py",
        field="path",
    ),
    Rule(
        "!self.path.startsWith('/') && !self.path.split(':')[0].split('/').exists(p, p == '..')",
        "path leads outside of the source; write it relative to the source, without '..'",
        field="path",
    ),
)

RULES: dict[type[BaseModel], tuple[Rule, ...]] = {
    manifest.DeploymentManifestSpec: _DEPLOYMENT,
    manifest.MessageQueue: _QUEUE,
    manifest.RedisQueue: _BROKER,
    manifest.RabbitMQQueue: _BROKER,
    manifest.KafkaQueue: _BROKER,
    manifest.StateStore: (
        _one("uri", "uriFrom", "managed"),
        Rule(
            f"!has(self.uri) || self.uri.matches('^({'|'.join(STATE_STORE_SCHEMES)})://')".replace(
                "+", "[+]"
            ),
            "uri has no scheme of a state store; write scheme://..., with one of "
            + ", ".join(STATE_STORE_SCHEMES),
            field="uri",
        ),
    ),
    manifest.Managed: (
        Rule(_storage("size", "1Gi", "string"), "storage.size is immutable; write the size it had"),
        Rule(
            _storage("storageClassName", ""),
            "storage.storageClassName is immutable; write the class it had",
        ),
    ),
    manifest.Source: (_one("git", "image", "configMap"),),
    manifest.InlineService: (*_SERVICE_NAME, *_PATH, _SCALED_ONCE, _COMPETES),
    manifest.WorkflowServiceManifestSpec: (
        *_WFS_NAME,
        *_PATH,
        _COMPETES,
        Rule(
            "self.deploymentRef.name == oldSelf.deploymentRef.name",
            "deploymentRef is immutable; delete the WorkflowService and create one for the other"
            " Deployment",
            field="deploymentRef",
        ),
    ),
    autoscaling.Autoscaling: _AUTOSCALING,
    autoscaling.Schedule: (
        Rule(
            "self.start != self.end", "end is the same as start; write a later moment", field="end"
        ),
    ),
    manifest_common.FileSource: (_one("configMapKeyRef", "secretKeyRef"),),
    manifest_common.EnvVarSource: (
        _one("secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef"),
    ),
    manifest_common.EnvVar: (
        Rule(
            "!(has(self.value) && has(self.valueFrom))",
            "write value or valueFrom, not both",
        ),
    ),
}
"""Model -> its rules, on every object of it."""
