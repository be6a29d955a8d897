"""The entry point of ``llamadeploy api-server``, and :func:`serve` for whoever embeds it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from llamadeploy.api_server.app import create_app
from llamadeploy.api_server.backends.base import DeployRequest
from llamadeploy.api_server.backends.local.backend import LocalBackend
from llamadeploy.api_server.backends.local.core import is_loopback
from llamadeploy.api_server.backends.local.options import LocalOptions
from llamadeploy.api_server.metrics import metrics_app, server_metrics
from llamadeploy.api_server.options import ServeOptions
from llamadeploy.collector import settle_collector
from llamadeploy.exceptions import ConfigurationError, LlamaDeployError
from llamadeploy.http.serving import HttpServer
from llamadeploy.logs import configure_logging
from llamadeploy.spec.loader import load_deployment

log = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
"""What running requests (waits, streams) get when the server ends; their tasks lose nothing."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that is up.

    Attributes:
        url: where clients reach it.
        backend: what runs there.
        deployed: the deployment of ``ServeOptions.file``.
    """

    url: str
    backend: LocalBackend
    deployed: str | None = None


async def serve(
    options: ServeOptions,
    *,
    on_ready: Callable[[Serving], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run an API server until ``stop`` is set, or SIGTERM or SIGINT comes; then drain.

    Deployments of an earlier run in the same data directory are brought back first.

    Args:
        on_ready: called once, when the server answers and ``options.file`` is deployed.

    Raises:
        ConfigurationError: the address, the data directory or the file is wrong.
        DeploymentError: ``options.file`` could not be brought up.
    """
    _check_address(options)
    stop = stop or asyncio.Event()
    async with AsyncExitStack() as stack:
        _stop_on_signals(stop, stack)
        backend = await LocalBackend.open(options.data_dir, _local_options(options))
        stack.push_async_callback(backend.aclose)
        files, request = await asyncio.to_thread(_files, options)
        await backend.expect(files)
        app = create_app(backend, token=options.token, metrics=options.metrics)
        server = HttpServer(app, options.host, options.port, setting="--port")
        await server.start()
        stack.push_async_callback(server.stop, REQUEST_SECONDS)
        await _serve_metrics(backend, options, stack)
        bringing_up = asyncio.create_task(_bring_up(backend, files, request))
        stopping = asyncio.create_task(stop.wait())
        stack.callback(stopping.cancel)
        await asyncio.wait({bringing_up, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not bringing_up.done():
            bringing_up.cancel()
            await asyncio.gather(bringing_up, return_exceptions=True)
            return
        deployed = bringing_up.result()
        log.info("the API server listens on %s", server.url)
        if on_ready is not None:
            on_ready(Serving(server.url, backend, deployed))
        await stopping
        log.info("stopping: workers drain")


async def _serve_metrics(
    backend: LocalBackend, options: ServeOptions, stack: AsyncExitStack
) -> None:
    """On a port of their own, where one was asked for."""
    if not options.metrics or options.metrics_port is None:
        return
    setting = "LLAMA_DEPLOY_APISERVER_PROMETHEUS_PORT"
    app = metrics_app(server_metrics(backend))
    server = HttpServer(app, options.host, options.metrics_port, setting=setting)
    await server.start()
    stack.push_async_callback(server.stop, 0)
    log.info("metrics are served at %s", server.url)


def run(options: ServeOptions, *, on_ready: Callable[[Serving], None] | None = None) -> int:
    """:func:`serve` as a process: logging, event loop, errors as text; the exit code."""
    import uvloop

    def ready(serving: Serving) -> None:
        settle_collector()
        if on_ready is not None:
            on_ready(serving)

    configure_logging(options.log_format, options.log_level)
    _quieten()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options, on_ready=ready))
    except LlamaDeployError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - for the person at the terminal
        return 1
    return 0


def main() -> None:
    """The console entry: parses the command line."""
    from llamadeploy.api_server.command import api_server

    api_server(prog_name="llamadeploy api-server")


def _files(options: ServeOptions) -> tuple[dict[str, DeployRequest], DeployRequest | None]:
    """What is to be deployed, by the deployment's name, and which of it the user named."""
    files = _folder_files(options.rc_path)
    if options.file is None:
        return files, None
    request = _request(options.file, options.base_path)
    return files | {_name(request): request}, request


async def _bring_up(
    backend: LocalBackend, files: dict[str, DeployRequest], request: DeployRequest | None
) -> str | None:
    """Restore what ran before, then the folder of files, then the one file."""
    await backend.restore(besides=list(files))
    for name, each in files.items():
        try:
            await backend.deploy(each)
        except LlamaDeployError as error:
            if each is request:
                raise
            log.error("%s was not deployed: %s", each.file, error)
            await backend.restore(besides=[other for other in files if other != name])
        finally:
            backend.expect_no_more(name)
    return _name(request) if request else None


def _name(request: DeployRequest) -> str:
    return load_deployment(request.text, file=request.file).name


def _request(file: Path, base_path: Path | None) -> DeployRequest:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the deployment file '{file}' cannot be read: {error}; give a UTF-8 text file"
        ) from error
    return DeployRequest(text, base_path or file.absolute().parent, file.name)


def _folder_files(folder: Path | None) -> dict[str, DeployRequest]:
    """The folder's deployment files by the deployment's name."""
    found: dict[str, DeployRequest] = {}
    for path in sorted(folder.glob("*.y*ml")) if folder else ():
        try:
            request = _request(path, folder)
            found[_name(request)] = request
        except ConfigurationError as error:
            log.error("%s was not deployed: %s", path, error)
    return found


def _local_options(options: ServeOptions) -> LocalOptions:
    return LocalOptions(
        token=options.token,
        drain_seconds=options.drain_seconds,
        retention=options.retention,
        insecure_no_token=options.insecure_no_token,
        log_format=options.log_format,
        log_level=options.log_level,
    )


def _check_address(options: ServeOptions) -> None:
    if options.token or options.insecure_no_token or is_loopback(options.host):
        return
    raise ConfigurationError(
        f"host '{options.host}' lets others deploy code on this machine without a token: "
        "use 127.0.0.1, or set LLAMA_DEPLOY_TOKEN, or add --insecure-no-token"
    )


def _stop_on_signals(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    """SIGTERM and SIGINT stop the server; a second one of them ends the process at once."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def release() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def caught() -> None:
        stop.set()
        release()

    for number in numbers:
        loop.add_signal_handler(number, caught)
    stack.callback(release)


def _quieten() -> None:
    """Workers' lines have their time and level already; uvicorn's chatter helps nobody."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    workers = logging.getLogger("llamadeploy.workers")
    workers.handlers[:] = [handler]
    workers.propagate = False
