"""What a deploy with a user interface needs, and how it fails: nothing is left half-deployed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_without_node(serve: Callable[..., Any], tmp_path: Path) -> None:
    async with serve(PATH=str(tmp_path)) as server:
        status, body = await server.deploy(server.file("one"))
        assert status == 400
        assert body["detail"].startswith(
            "ui: a user interface runs on Node.js, and node and npm cannot be found on PATH: "
            "install Node.js 20 or newer"
        )
        details = await server.details("one")
        assert details["state"] == "failed"
        async with server.http.get("/deployments/") as reply:
            assert await reply.json() == []
        assert not server.data("one").exists()


@pytest.mark.parametrize(
    ("package", "detail"),
    [
        (None, "ui.source: there is no package.json (looked for frontend/package.json, "),
        ("{", "ui.source: package.json cannot be read: "),
        ("[]", "ui.source: package.json has no script 'dev': add one that serves"),
        ('{"scripts": {"start": "x"}}', "ui.source: package.json has no script 'dev'"),
    ],
)
async def test_a_wrong_package(
    server: Any, project: Path, package: str | None, detail: str
) -> None:
    file = project / "frontend" / "package.json"
    file.unlink() if package is None else file.write_text(package)
    status, body = await server.deploy(server.file("one"))
    assert (status, body["detail"][: len(detail)]) == (400, detail)


@pytest.mark.parametrize(
    ("ui", "detail"),
    [
        ({"path": "../../x"}, "ui.path: '../../x' leaves the source"),
        ({"path": "pages"}, "ui.source: there is no package.json (looked for frontend/pages/"),
        ({"env-files": ["none.env"]}, "ui.env-files: 'none.env' cannot be read"),
        ({"env": {"LLAMADEPLOY_X": "1"}}, "ui.env: 'LLAMADEPLOY_X' is set by the server"),
        ({"ts-dependencies": {"../x": "1"}}, "ui.ts-dependencies: '../x': '1' is not a package"),
        ({"source": {"type": "local", "name": "gone"}}, "ui.source.name: 'gone' does not exist"),
    ],
)
async def test_a_wrong_section(
    server: Any, tmp_path: Path, ui: dict[str, Any], detail: str
) -> None:
    status, body = await server.deploy(server.file("one", **ui))
    assert (status, body["detail"][: len(detail)]) == (400, detail)
    assert not server.data("one").exists()


@pytest.mark.parametrize("ui", [{"path": "app"}, {"path": "frontend/app"}])
async def test_a_project_deeper_in_the_source(
    server: Any, project: Path, ui: dict[str, Any]
) -> None:
    (project / "frontend").rename(project / "app")
    (project / "frontend").mkdir()
    (project / "app").rename(project / "frontend" / "app")
    await server.deployed("one", **ui)
    assert (await server.hello("one"))["folder"].endswith("/frontend/app")


async def test_the_folder_ui_of_the_source_as_in_0_8_1(server: Any, project: Path) -> None:
    (project / "web").mkdir()
    (project / "frontend").rename(project / "web" / "ui")
    await server.deployed("one", source={"type": "local", "name": "web"})
    assert (await server.hello("one"))["folder"].endswith("/web/ui")


async def test_a_front_end_that_ends_at_once(server: Any, project: Path, tmp_path: Path) -> None:
    (project / "frontend" / "server.mjs").write_text(
        "console.log(`${process.env.API_KEY} is wrong`); process.exit(5);"
    )
    text = server.file("one", env={"API_KEY": "sk-secret-value"})
    status, body = await server.deploy(text)
    assert status == 400
    assert body["detail"].startswith("ui: the user interface ended with exit code 5:\n")
    assert "*** is wrong" in body["detail"]
    assert "sk-secret-value" not in body["detail"]
    assert (await server.details("one"))["state"] == "failed"
    assert not server.data("one").exists()


async def test_its_environment(serve: Callable[..., Any], project: Path) -> None:
    (project / "frontend" / "ui.env").write_text("GREETING=from the file\nOTHER=1\n")
    async with serve(SOME_SECRET="x", npm_config_loglevel="error") as server:
        await server.deployed("one", **{"env": {"GREETING": "env"}, "env-files": ["ui.env"]})
        hello = await server.hello("one")
        assert hello["greeting"] == "from the file"
        assert {"OTHER", "PATH", "HOME", "PORT", "HOST"} <= set(hello["environ"])
        assert "SOME_SECRET" not in hello["environ"]
        assert not any(name.startswith("LLAMADEPLOY_") for name in hello["environ"])


async def test_a_manifest_with_a_config_map(server: Any) -> None:
    server_code = (
        'import { createServer } from "node:http";\n'
        "createServer((_, reply) => reply.end('\"made of a ConfigMap\"'))"
        ".listen(process.env.PORT);\n"
    )
    package = json.dumps({"type": "module", "scripts": {"dev": "node server.js"}})
    documents = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "front"},
         "data": {"package.json": package, "server.js": server_code}},
        {"apiVersion": "llamadeploy.io/v1alpha1", "kind": "Deployment",
         "metadata": {"name": "one"},
         "spec": {"services": [],
                  "ui": {"name": "ui", "source": {"configMap": {"name": "front"}}}}},
    ]  # fmt: skip
    text = "\n---\n".join(map(json.dumps, documents))
    assert await server.deploy(text) == (200, {"name": "one"})
    assert await server.get("/ui/one/") == (200, "made of a ConfigMap")


class TestToken:
    """The server's token protects user interfaces too, and stays here."""

    async def test_it_is_asked_for_and_never_passed_on(self, serve: Callable[..., Any]) -> None:
        async with serve("--token", "hunter2-hunter2") as server:
            basic = base64.b64encode(b"anyone:hunter2-hunter2").decode()
            headers = {"Authorization": "Bearer hunter2-hunter2"}
            async with aiohttp.ClientSession(server.url, headers=headers) as anonymous:
                anonymous, server.http = server.http, anonymous
                await server.deployed("one")
                for value in (headers["Authorization"], f"Basic {basic}"):
                    _, body = await server.get(
                        "/ui/one/hello", headers={"Authorization": value, "X-Other": "1"}
                    )
                    assert body["headers"]["x-other"] == "1"
                    assert "hunter2" not in json.dumps(body)
                    assert basic not in json.dumps(body)
                    assert "authorization" not in body["headers"]
                async with server.http.ws_connect("/ui/one/socket") as socket:
                    await socket.send_str("headers")
                    assert "authorization" not in json.loads(await socket.receive_str(timeout=5))
                async with anonymous.get("/ui/one/hello") as reply:
                    assert reply.status == 401
                    schemes = reply.headers.getall("www-authenticate")
                    assert any(each.startswith("Basic realm=") for each in schemes)
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await anonymous.ws_connect("/ui/one/socket")
                assert caught.value.status == 403
                server.http = anonymous


async def test_a_deploy_that_is_given_up_ends_its_install(
    serve: Callable[..., Any], project: Path, tmp_path: Path
) -> None:
    package = {"scripts": {"dev": "node server.mjs", "preinstall": "echo $$ > pid; sleep 600"}}
    (project / "frontend" / "package.json").write_text(json.dumps(package))
    async with serve() as server:
        deploying = asyncio.create_task(server.deploy(server.file("one")))
        folder = tmp_path / "data" / "one" / "work"

        def install() -> int:
            found = list(folder.glob("*/@ui/frontend/pid"))
            return int(found[0].read_text() or 0) if found else 0

        pid = await server.until(install, "the install runs")
        details = await server.details("one")
        assert (details["state"], details["progress"][:4]) == ("starting", "ui: ")
        await server.stop()
        with pytest.raises((aiohttp.ClientError, AssertionError)):
            await deploying
        await server.until(lambda: not server.alive(pid), "the install is gone")
