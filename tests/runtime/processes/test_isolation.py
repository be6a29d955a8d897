"""Two deployments on one message queue and one state store, and the end of one of them."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llamadeploy.cli import llamactl
from llamadeploy.message_queues.registry import open_queue
from llamadeploy.messages import QueueMessage


def purge(backend: Any, *options: str) -> Result:
    return CliRunner().invoke(
        llamactl,
        ["purge", "--namespace", backend.namespace, "--queue-type", backend.queue_type,
         "--queue-url", backend.queue_url, "--state-store-uri", backend.state_store_uri, *options],
    )  # fmt: skip


@pytest.mark.defect(9, 15)
async def test_neighbours_see_nothing_of_each_other_and_purge_takes_one(
    deploy: Any, apis: Any, until: Any, backend: Any
) -> None:
    # One's name is the beginning of the other's.
    other = replace(backend, namespace=f"{backend.namespace}2")
    one, two = await asyncio.gather(deploy(backend), deploy(other))
    (first,), (second,) = apis(one), apis(two)
    mine = [await first.create(number=n) for n in range(4)]
    theirs = [await second.create(number=n) for n in range(10, 14)]
    assert [await first.result(*each) for each in mine] == [f"done {n}" for n in range(4)]
    assert [await second.result(*each) for each in theirs] == [f"done {n}" for n in range(10, 14)]
    ran = [(folder.folder / "ledger").read_text().split("\n")[:-1] for folder in (one, two)]
    assert [{int(line.split()[0]) for line in lines} for lines in ran] == [
        {0, 1, 2, 3}, {10, 11, 12, 13},
    ]  # fmt: skip
    assert {each["task_id"] for each in await first.ask("GET", "/tasks")} == {t for _, t in mine}
    await first.ask("GET", f"/tasks/{theirs[0][1]}", status=404)
    # While a worker holds a task nothing is removed.
    session, task = await first.create(number=5, seconds=60)

    async def running() -> bool:
        return await first.state(session, task) == "running"

    await until(running)
    refused = await asyncio.to_thread(purge, backend, "--yes")
    assert refused.exit_code == 4, refused.output
    assert "work-0" in refused.stderr
    await first.ask("POST", f"/tasks/{task}/cancel?session_id={session}")
    for process in one.processes:
        await asyncio.to_thread(process.stop)
    looked = await asyncio.to_thread(purge, backend, "--dry-run", "-o", "json")
    assert json.loads(looked.stdout) == {
        "namespace": backend.namespace, "tasks": 5, "unfinished": 0, "sessions": 5,
        "services": ["work"], "messages": 0, "purged": False,
    }  # fmt: skip
    done = await asyncio.to_thread(purge, backend, "--yes", "-o", "json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["purged"], report["tasks"]) == (True, 5)
    assert report["topics"] >= 2
    again = json.loads((await asyncio.to_thread(purge, backend, "--yes", "-o", "json")).stdout)
    assert (again["tasks"], again["topics"], again["services"]) == (0, 0, [])
    # The neighbour has kept everything, and goes on.
    assert len(await second.ask("GET", "/tasks")) == 4
    assert await second.result(*await second.create(number=14)) == "done 14"


async def test_a_queue_with_an_exchange_of_its_own_is_purged(
    tmp_path: Any, rabbitmq_server: Any, rabbitmq_vhost: str
) -> None:
    url = rabbitmq_server.url(rabbitmq_vhost)
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "name: shop\ncontrol-plane: {}\n"
        f"message-queue: {{type: rabbitmq, url: '{url}', exchange_name: mine}}\n"
        "services: {work: {name: W, source: {type: local, name: .}, path: 'workflow:work'}}\n"
    )
    options = '{"exchange_name": "mine"}'
    by_hand = ("-n", "llama_deploy.shop", "--queue-type", "rabbitmq", "--queue-url", url,
               "--queue-options", options)  # fmt: skip
    async with AsyncExitStack() as stack:
        queues = []
        for exchange in ("mine", "llama-deploy"):
            queues.append(open_queue("rabbitmq", url, {"exchange_name": exchange}))
            stack.push_async_callback(queues[-1].aclose)
        mine, default = queues
        await default.publish("llama_deploy.shop.other", QueueMessage(id_="0"))
        for arguments in ((str(file),), by_hand):
            await mine.publish("llama_deploy.shop.work", QueueMessage(id_="1"))
            command = ["purge", *arguments, "--yes", "-o", "json"]
            done = await asyncio.to_thread(CliRunner().invoke, llamactl, command)
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)["topics"] == 1
            assert await mine.depth("llama_deploy.shop.work") == 0
        assert await default.depth("llama_deploy.shop.other") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--yes"),
        (("--yes",), "FILE or --namespace"),
        (("--yes", "--namespace", "a"), "no external message queue or state store"),
        (("--yes", "--namespace", "a", "--queue-type", "redis"), "--queue-url"),
        (("--yes", "--queue-options", "{"), "it is not JSON"),
        (("--yes", "--queue-options", "[]"), "JSON object"),
    ],
)
def test_wrong_usage_says_what_to_write(options: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(llamactl, ["purge", *options])
    assert done.exit_code == 2
    assert says in done.stderr


def test_a_file_names_queue_store_and_namespace(
    tmp_path: Any, redis_server: Any, unique: str
) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(
        f"name: {unique}\n"
        f"control-plane: {{state_store_uri: '{redis_server.uri}'}}\n"
        f"message-queue: {{type: redis, url: '{redis_server.uri}'}}\n"
        "services: {work: {name: W, source: {type: local, name: .}, path: 'workflow:work'}}\n"
    )
    done = CliRunner().invoke(llamactl, ["purge", str(file), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert f"llama_deploy.{unique} has 0 tasks" in done.output
