"""Messages to the control plane: from services of 0.8.1's kind, and those nobody understands."""

from __future__ import annotations

from typing import Any

from llamadeploy.messages import ActionTypes, QueueMessage, topic_name
from llamadeploy.types import TaskResult, TaskStream

NAMESPACE = "llama_deploy.test"
TOPIC = topic_name(NAMESPACE, "control_plane")


def completed(task: str, result: str = "done") -> QueueMessage:
    return QueueMessage(
        action=ActionTypes.COMPLETED_TASK,
        data=TaskResult(task_id=task, result=result).model_dump(),
    )


def event(task: str, session: str, index: int) -> QueueMessage:
    stream = TaskStream(task_id=task, session_id=session, data={"n": index}, index=index)
    return QueueMessage(action=ActionTypes.TASK_STREAM, data=stream.model_dump())


async def test_a_foreign_service_streams_and_completes_over_the_queue(plane: Any) -> None:
    session = await plane.session()
    task = await plane.task(session, "foreign")
    queue = plane.control_plane.queue
    for index in (1, 0, 2):
        await queue.publish(TOPIC, event(task, session, index))
    await queue.publish(TOPIC, completed(task))
    await queue.publish(TOPIC, completed(task, "a second result"))
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "done"
    lines = await plane.lines(f"/sessions/{session}/tasks/{task}/result_stream")
    assert lines == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_messages_may_be_posted(plane: Any) -> None:
    session = await plane.session()
    message = {
        "action": "new_task",
        "type": "control_plane",
        "data": {"input": '{"message": "hi"}', "task_id": "posted", "service_id": "echo"},
    }
    assert await plane.post("/process_message", message) is None
    result = await plane.control_plane.wait_result("posted", 10)
    assert result.result == "hi"
    task = await plane.task(session, "foreign")
    await plane.post("/process_message", completed(task).model_dump(mode="json"))
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "done"


async def test_a_posted_message_that_is_wrong_is_refused_with_the_field(plane: Any) -> None:
    reply = await plane.post("/process_message", {"action": "send_event", "data": {}}, 400)
    assert "new_task, completed_task and task_stream" in reply["detail"]
    reply = await plane.post("/process_message", {"action": "new_task", "data": {}}, 400)
    assert "data.input" in reply["detail"]
    await plane.post("/process_message", {"action": "nonsense"}, 422)
    message = completed("nobody").model_dump(mode="json")
    await plane.post("/process_message", message, 404)


async def test_poison_becomes_a_dead_letter_and_the_consumer_goes_on(
    plane: Any, wait_until: Any
) -> None:
    queue = plane.control_plane.queue
    poison = [
        QueueMessage(action=None, data={"x": 1}),
        QueueMessage(action=ActionTypes.COMPLETED_TASK, data={"task_id": 5}),
        QueueMessage(action=ActionTypes.NEW_TASK, data={"input": "[", "service_id": "echo"}),
        QueueMessage(action=ActionTypes.ROUTE_TASK, data={"task_id": 5}),
    ]
    for message in poison:
        await queue.publish(TOPIC, message)
    await queue.publish(TOPIC, completed("nobody knows it"))
    session = await plane.session()
    task = await plane.task(session, "foreign")
    await queue.publish(TOPIC, completed(task))
    result = await plane.get(f"/sessions/{session}/tasks/{task}/result?wait=10")
    assert result["result"] == "done"
    letters = await plane.get("/dead-letters")
    assert len(letters) == len(poison)
    assert poison[1].id_ in letters[1]["message"]

    async def drained() -> bool:
        return await queue.depth(TOPIC) == 0

    await wait_until(drained)
    await plane.call("DELETE", f"/dead-letters/{letters[0]['letter_id']}")
    await plane.call("DELETE", f"/dead-letters/{letters[0]['letter_id']}", 404)
    await plane.post(f"/dead-letters/{letters[1]['letter_id']}/retry", expect=404)
    assert len(await plane.get("/dead-letters")) == len(poison) - 1
