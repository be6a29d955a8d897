"""Every error this package raises on purpose.

::

    LlamaDeployError
    ├── ConfigurationError            what was asked for cannot be: fix the file or argument
    │   ├── MissingExtraError         an optional dependency is not installed
    │   └── UnsupportedFeatureError   parsed, but not available where it was used
    ├── NotFoundError                 no such deployment, service, session or task
    ├── ConflictError                 the thing exists already, and differs
    │   └── SessionBusyError          policy ``reject``: the session has an unfinished task
    ├── StoreError                    the state store failed; nothing was half written
    │   └── StoreUnavailableError     it cannot be reached now; the same call may go through later
    ├── QueueError                    the message queue failed; the message was not accepted
    │   └── QueueUnavailableError     it cannot be reached now; the same call may go through later
    ├── ServiceCallError              a called service's task failed or was cancelled
    ├── SignatureError                a context or snapshot was not signed by one of our keys
    ├── WorkflowLoadError             a workflow could not be imported from its source
    └── DeploymentError               a deployment could not be brought up; nothing of it was kept
"""

from __future__ import annotations


class LlamaDeployError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigurationError(LlamaDeployError):
    """A file, setting or argument is wrong; the message names it and says what would be right."""


class MissingExtraError(ConfigurationError):
    """An optional dependency is missing.

    Args:
        feature: what needs it, in the user's words, such as ``"the redis state store"``.
        extra: the extra of this distribution that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the extra '{extra}': pip install 'llamadeploy-operator[{extra}]'"
        )
        self.extra = extra


class UnsupportedFeatureError(ConfigurationError):
    """The configuration is valid, but what it asks for is not available where it was used."""


class NotFoundError(LlamaDeployError):
    """No such deployment, service, session or task."""


class ConflictError(LlamaDeployError):
    """Something of that id exists already and is different."""


class SessionBusyError(ConflictError):
    """The session has an unfinished task and its service takes one at a time (``reject``)."""


class StoreError(LlamaDeployError):
    """The state store failed; the operation left nothing half written."""


class StoreUnavailableError(StoreError):
    """The state store cannot be reached now; the same call may go through later."""


class QueueError(LlamaDeployError):
    """The message queue failed; the message was not accepted."""


class QueueUnavailableError(QueueError):
    """The message queue cannot be reached now; the same call may go through later."""


class ServiceCallError(LlamaDeployError):
    """The task that a workflow called another service with failed or was cancelled."""


class SignatureError(LlamaDeployError):
    """A context or snapshot does not carry a signature of one of our keys."""


class WorkflowLoadError(LlamaDeployError):
    """A workflow could not be imported; the message lists the places that were looked at."""


class DeploymentError(LlamaDeployError):
    """A deployment could not be brought up; nothing of it was kept."""
