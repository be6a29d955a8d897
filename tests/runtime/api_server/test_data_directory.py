"""The data directory: one server at a time, nothing of the user's touched, private files."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llamadeploy.api_server.backends.local.data_directory import DataDirectory, Record
from llamadeploy.exceptions import ConfigurationError


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory.open(tmp_path / "data")
    yield directory
    directory.close()


def test_a_second_server_is_told_the_firsts_pid(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import sys, pathlib\n"
         "from llamadeploy.api_server.backends.local.data_directory import DataDirectory\n"
         "kept = DataDirectory.open(pathlib.Path(sys.argv[1]))\n"
         "print('locked', flush=True)\n"
         "sys.stdin.read()", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ConfigurationError, match=f"in use by the server with pid {holder.pid}"):
            DataDirectory.open(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    DataDirectory.open(tmp_path).close()  # a killed server's lock does not stay


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="choose another with --data-dir"):
        DataDirectory.open(tmp_path / "file")


@pytest.mark.defect(19)
def test_a_folder_of_the_users_is_neither_used_nor_removed(data: DataDirectory) -> None:
    users = data.root / "project"
    users.mkdir()
    (users / "thesis.txt").write_text("years of work")
    folder = data.folder("project")
    with pytest.raises(ConfigurationError, match="is not a deployment's: rename the deployment"):
        folder.create()
    folder.remove()
    assert (users / "thesis.txt").read_text() == "years of work"


def test_a_link_in_place_of_the_folder_is_refused(data: DataDirectory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep").write_text("")
    (data.root / "echo").symlink_to(elsewhere)
    with pytest.raises(ConfigurationError, match="is not a deployment's"):
        data.folder("echo").create()
    data.folder("echo").remove()
    assert (elsewhere / "keep").exists()


def test_only_recorded_deployments_come_back_oldest_first(data: DataDirectory) -> None:
    for name in ("second-half", "first", "zebra"):
        data.folder(name).create()
    for name in ("zebra", "first"):
        data.folder(name).write_record(Record(text="x", base_path="/"))
    assert data.recorded() == ["first", "zebra"]
    data.folder("first").remove()
    assert data.recorded() == ["zebra"]


def test_a_record_comes_back_as_it_was(data: DataDirectory) -> None:
    folder = data.folder("echo")
    assert folder.create() is True
    assert folder.create() is False
    record = Record(text="name: echo", base_path="/x", generation=3, control_plane_port=1234)
    folder.write_record(record)
    assert folder.read_record() == record
    assert folder.last_ports() == (1234, 0)
    (folder.root / "deployment.json").write_text("{")
    with pytest.raises(ConfigurationError, match="create the deployment again"):
        folder.read_record()


def test_what_may_hold_secrets_is_private(data: DataDirectory) -> None:
    folder = data.folder("echo")
    folder.create()
    keys = folder.signing_keys()
    folder.write_record(Record(text="secret", base_path="/"))
    assert folder.signing_keys().dump() == keys.dump()
    for path in (folder.root / "signing-keys", folder.root / "deployment.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert "secret" not in repr(folder.read_record())


def test_generations_are_never_reused_while_one_is_there(data: DataDirectory) -> None:
    folder = data.folder("echo")
    folder.create()
    assert [folder.new_generation(), folder.new_generation()] == [1, 2]
    folder.keep_only(2)
    assert not folder.generation(1).exists()
    assert folder.new_generation() == 3
