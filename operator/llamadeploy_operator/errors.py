"""What can be wrong with a resource beyond its schema.

::

    OperatorError
    └─ SpecError              the spec cannot be carried out as it is: a person must change it
       └─ InvalidPodTemplate  a podTemplate overlay changes what it must not, or does not fit

A :class:`Problem` is the same as data: what a condition shows. It is never raised.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamadeploy_operator.reasons import Reason


class OperatorError(Exception):
    """Base of the operator's own errors. Their texts never hold a secret."""


class SpecError(OperatorError):
    """The spec cannot be carried out; becomes ``Stalled`` with :attr:`reason`.

    Attributes:
        field: where, such as ``services[0].podTemplate.spec.hostNetwork``.
        wrong: what is wrong there.
        cure: what to write instead.
    """

    reason = Reason.INVALID_SPEC

    def __init__(self, field: str, wrong: str, cure: str) -> None:
        super().__init__(f"{field}: {wrong}; {cure}")
        self.field = field
        self.wrong = wrong
        self.cure = cure

    @property
    def problem(self) -> Problem:
        """The same as data."""
        return Problem(self.reason, str(self), stalled=True)


class InvalidPodTemplate(SpecError):
    """A podTemplate overlay that cannot be merged."""

    reason = Reason.INVALID_POD_TEMPLATE


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a resource from being as its spec says.

    Attributes:
        reason: of the condition that shows it.
        message: what is wrong and what to change; no secret in it.
        stalled: only a change of the spec (or of another object, by a person) helps; false for
            what may pass by itself.
    """

    reason: Reason
    message: str
    stalled: bool = False
