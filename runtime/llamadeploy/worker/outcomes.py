"""How an attempt's end is put to the store."""

from __future__ import annotations

import traceback

from llamadeploy.state_stores.records import Completion, ExecutionKey, NewEvent, ParkRequest
from llamadeploy.types import TaskState
from llamadeploy.worker.contract import Failed, Succeeded, Waiting


def failure(error: BaseException) -> Failed:
    """An error of ours, which running again would not cure."""
    text = "".join(traceback.format_exception(error))
    details = {"type": type(error).__name__, "message": str(error), "traceback": text}
    return Failed(str(error), {"state": "failed", "error": details}, retryable=False)


def completion(
    key: ExecutionKey, outcome: Succeeded | Failed, tail: tuple[NewEvent, ...]
) -> Completion:
    """The result together with the events that were not appended yet."""
    if isinstance(outcome, Succeeded):
        return Completion(
            key=key,
            state=TaskState.SUCCEEDED,
            result=outcome.result,
            events=tail,
            context=outcome.context,
        )
    return Completion(
        key=key,
        state=TaskState.FAILED,
        result=outcome.result,
        data=outcome.data,
        events=tail,
        retryable=outcome.retryable,
    )


def park_request(
    key: ExecutionKey, outcome: Waiting, tail: tuple[NewEvent, ...], code_version: str
) -> ParkRequest:
    """The snapshot together with the events that were not appended yet."""
    return ParkRequest(
        key=key,
        snapshot=outcome.snapshot,
        consumed_seq=outcome.consumed_seq,
        next_index=outcome.next_index,
        deadline=outcome.deadline,
        code_version=code_version,
        run_seconds=outcome.run_seconds,
        events=tail,
    )
