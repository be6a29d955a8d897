"""Completion scripts in real shells, with names from a real server."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Ctl = Callable[..., Result]

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def environment(tmp_path: Path, config_file: Path) -> dict[str, str]:
    """`llamactl` on the path, and a configuration folder of the test's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "llamactl"
    command.write_text(f"#!{sys.executable}\nfrom llamadeploy.cli import main\nmain()\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA")}
    return {
        **environ,
        "PATH": f"{folder}{os.pathsep}{environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }


def complete_in_bash(environ: dict[str, str], *words: str) -> set[str]:
    """What bash offers for the last of ``words`` once the script is loaded."""
    script = (
        'eval "$(llamactl completion bash)"\n'
        "complete -p llamactl >/dev/null || exit 3\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))\n'
        '_llamactl_completion llamactl\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", "llamactl", *words],
        env=environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_values(environment: dict[str, str]) -> None:
    assert complete_in_bash(environment, "dea") == {"dead-letters"}
    assert complete_in_bash(environment, "services", "re") == {"restart"}
    assert "--follow" in complete_in_bash(environment, "events", "--")
    assert complete_in_bash(environment, "tasks", "--state", "s") == {"succeeded"}


def test_bash_completes_names_of_the_server(environment: dict[str, str], cli_server: Any) -> None:
    server = ("-s", cli_server.url)
    assert "shop" in complete_in_bash(environment, *server, "run", "-d", "")
    assert complete_in_bash(environment, *server, "delete", "sh") == {"shop"}
    assert complete_in_bash(environment, *server, "run", "-d", "shop", "-s", "e") == {"echo"}
    stop = (*server, "services", "stop", "-d", "shop", "")
    assert complete_in_bash(environment, *stop) == {"echo", "fail", "count", "ask"}


def test_a_server_that_is_down_completes_nothing_and_says_nothing(
    environment: dict[str, str],
) -> None:
    assert complete_in_bash(environment, "-s", "http://127.0.0.1:9", "run", "-d", "") == set()
    assert complete_in_bash(environment, "-s", "nonsense://", "run", "-d", "") == set()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_load(shell: str, environment: dict[str, str]) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    if shell == "zsh":
        script = 'autoload -U compinit; compinit -u; eval "$(llamactl completion zsh)"; '
        script += "print $_comps[llamactl]"
        expected = "_llamactl_completion"
    else:
        script = 'llamactl completion fish | source; complete -C "llamactl dea"'
        expected = "dead-letters"
    done = subprocess.run(
        [program, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(run: Callable[..., Result], shell: str) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0
    assert "_LLAMACTL_COMPLETE" in done.stdout


def test_another_shell_is_refused(run: Callable[..., Result]) -> None:
    assert run("completion", "tcsh").exit_code == 2
