"""The example in ``examples/git-private``: a tag of a private repository, with its Secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[3] / "examples" / "git-private" / "deployment.yaml"
TOKEN = "t0ken-of-the-secret"

WORKFLOW = """
from workflows import Workflow, step
from workflows.events import StartEvent, StopEvent

class Echo(Workflow):
    @step
    async def answer(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"{VERSION}: {ev.message}")

VERSION = "VERSION"
echo_workflow = Echo()
"""


def test_the_tag_runs_and_needs_the_secret(
    start_server: Any, start_git_http: Any, repository: Any, tmp_path: Path
) -> None:
    repository.commit({"workflow.py": WORKFLOW.replace('"VERSION"', '"one"')})
    repository.git("tag", "v1.0.0")
    repository.commit({"workflow.py": WORKFLOW.replace('"VERSION"', '"newer"')})
    git = start_git_http(token=TOKEN)
    url = "https://git.example.org/team/flows.git"
    text = EXAMPLE.read_text()
    assert url in text and "REPLACE-WITH-A-TOKEN" in text
    text = text.replace(url, git.url())
    server = start_server(None)
    refused = server.create(text, tmp_path)
    assert refused.status == 400 and "REPLACE" not in str(refused.body)
    reply = server.create(text.replace("REPLACE-WITH-A-TOKEN", TOKEN), tmp_path)
    assert reply.status == 200, reply
    assert server.run("from-git", "flow", message="hello").body == "one: hello"
    assert set(git.logins) == {"reader:REPLACE-WITH-A-TOKEN", f"reader:{TOKEN}"}
