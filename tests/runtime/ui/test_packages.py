"""Packages come from a registry (here one of the test's own) once, then from the cache."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRONT_END = """
import { createServer } from "node:http";
import { greeting } from "greeter";
createServer((_, reply) => reply.end(JSON.stringify(greeting))).listen(process.env.PORT);
"""


def package(version: str) -> bytes:
    """A tarball of ``greeter``, whose greeting is its version."""
    files = {
        "package.json": json.dumps(
            {"name": "greeter", "version": version, "type": "module", "exports": "./index.js"}
        ),
        "index.js": f'export const greeting = "greeter {version}";\n',
    }
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


class Registry:
    """A package registry on loopback with ``greeter`` 1.0.0 and 2.0.0; counts its requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.tarballs = {version: package(version) for version in ("1.0.0", "2.0.0")}
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        if request.path == "/greeter":
            return web.json_response(self._document())
        for version, data in self.tarballs.items():
            if request.path == f"/greeter-{version}.tgz":
                return web.Response(body=data)
        return web.json_response({"error": "not found"}, status=404)

    def _document(self) -> dict[str, Any]:
        versions = {
            version: {
                "name": "greeter",
                "version": version,
                "dist": {
                    "tarball": f"{self.url}greeter-{version}.tgz",
                    "integrity": integrity(data),
                },
            }
            for version, data in self.tarballs.items()
        }
        return {"name": "greeter", "dist-tags": {"latest": "2.0.0"}, "versions": versions}


@pytest_asyncio.fixture(loop_scope="module")
async def registry() -> AsyncIterator[Registry]:
    found = Registry()
    application = web.Application()
    application.router.add_get("/{path:.*}", found.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield found
    await runner.cleanup()


@pytest.fixture
def env(registry: Registry, tmp_path: Path) -> dict[str, str]:
    return {"npm_config_registry": registry.url, "npm_config_cache": str(tmp_path / "npm")}


async def test_what_was_installed_is_cached(
    server: Any, project: Path, registry: Registry, env: dict[str, str]
) -> None:
    (project / "frontend" / "server.mjs").write_text(FRONT_END)
    mine = (project / "frontend" / "package.json").read_text()
    ui = {"env": env, "ts-dependencies": {"greeter": "1.0.0"}}

    assert (await server.deployed("one", **ui))["packages"] == "installed"
    assert await server.get("/ui/one/") == (200, "greeter 1.0.0")
    assert "/greeter-1.0.0.tgz" in registry.requests
    assert (project / "frontend" / "package.json").read_text() == mine
    assert not (project / "frontend" / "node_modules").exists()

    registry.requests.clear()
    assert (await server.deployed("one", reload=True, **ui))["packages"] == "cached"
    assert await server.get("/ui/one/") == (200, "greeter 1.0.0")
    assert registry.requests == []

    ui["ts-dependencies"] = {"greeter": "^2.0.0"}
    assert (await server.deployed("one", reload=True, **ui))["packages"] == "installed"
    assert await server.get("/ui/one/") == (200, "greeter 2.0.0")

    package = {**json.loads(mine), "dependencies": {"greeter": "1.0.0"}}
    (project / "frontend" / "package.json").write_text(json.dumps(package))
    assert (await server.deployed("one", reload=True, env=env))["packages"] == "installed"
    assert await server.get("/ui/one/") == (200, "greeter 1.0.0")

    kept = list((server.data("one") / "ui-packages").iterdir())
    assert len(kept) == 2  # of three sets


async def test_its_own_scripts_run_with_cached_packages_too(
    server: Any, project: Path, env: dict[str, str]
) -> None:
    (project / "frontend" / "server.mjs").write_text(
        FRONT_END.replace('"greeter";', '"greeter";\nimport "./made.mjs";')
    )
    script = "node -e \"require('fs').writeFileSync('made.mjs', '')\""
    package = {"type": "module", "scripts": {"dev": "node server.mjs", "postinstall": script},
               "dependencies": {"greeter": "1.0.0"}}  # fmt: skip
    (project / "frontend" / "package.json").write_text(json.dumps(package))
    for expected, reload in (("installed", False), ("cached", True)):
        assert (await server.deployed("one", reload=reload, env=env))["packages"] == expected
        assert await server.get("/ui/one/") == (200, "greeter 1.0.0")


async def test_an_install_that_fails(server: Any, env: dict[str, str]) -> None:
    text = server.file("one", **{"env": env, "ts-dependencies": {"no-such-package": "1.0.0"}})
    status, body = await server.deploy(text)
    assert status == 400
    assert re.match(r"ui: 'p?npm install' ended with exit code 1:\n", body["detail"])
    assert "404" in body["detail"]
    assert "no-such-package" in body["detail"]
    details = await server.details("one")
    assert (details["state"], details["problem"]) == ("failed", body["detail"])
    assert not server.data("one").exists()


async def test_an_install_that_fails_leaves_the_old_one(
    server: Any, project: Path, env: dict[str, str]
) -> None:
    before = await server.deployed("one", env=env)
    ui = {"env": env, "ts-dependencies": {"no-such-package": "1.0.0"}}
    status, body = await server.deploy(server.file("one", **ui), reload=True)
    assert status == 400
    details = await server.details("one")
    assert details["last_deploy_error"] == body["detail"]
    assert details["ui"]["pid"] == before["pid"]
    assert (await server.hello("one"))["deployment"] == "one"
