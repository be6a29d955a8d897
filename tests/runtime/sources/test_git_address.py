"""URLs of repositories: which are accepted, and what of them is kept apart."""

from __future__ import annotations

import pytest

from llamadeploy.sources.base import SourceError
from llamadeploy.sources.git_access import GitSettings, git_access
from llamadeploy.sources.git_address import GitAddress
from llamadeploy.spec.deployment import SourceSpec


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h.example/a/b.git", ("https://h.example/a/b.git", "https", "h.example", "b")),
        ("https://u:p@h:8443/a", ("https://h:8443/a", "https", "h:8443", "a")),
        ("http://[::1]:80/a.git/", ("http://[::1]:80/a.git/", "http", "[::1]:80", "a")),
        ("git@h.example:a/b.git", ("git@h.example:a/b.git", "ssh", "h.example", "b")),
        ("ssh://git@h:22/~/x", ("ssh://git@h:22/~/x", "ssh", "h:22", "x")),
        ("file:///srv/my repo.git".replace(" ", "%20"),
         ("file:///srv/my%20repo.git", "file", "", "my_20repo")),
        ("https://h/..git", ("https://h/..git", "https", "h", "source")),
    ],
)  # fmt: skip
def test_parts(url: str, expected: tuple[str, ...]) -> None:
    address = GitAddress.parse(url)
    assert (address.url, address.scheme, address.host, address.name) == expected


def test_a_login_is_kept_apart_and_out_of_sight() -> None:
    address = GitAddress.parse("https://me:p%40ss@h/x")
    assert address.credentials == {"username": "me", "password": "p@ss"}
    assert "p@ss" not in repr(address)
    assert "p%40ss" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/x", "ext::true", "fd::7", "/srv/repo", "../repo", "-u./x", "--help",
        "ssh://-oProxyCommand=x/y", "-oProxyCommand=x:y", "git@-oProxyCommand=x:y", "ftp://h/x",
        "git://h/x", "https://", "https://h", "https://h/", "https:///x", "file://host/x",
        "https://h/x?token=sesame", "https://h/x#sesame", "https://h\n/x", "https://h:port/x",
        "ssh://me:sesame@h/x", "ssh://-l@h/x", "https://u:sesame@/x", "https://u:sesame@h x/y",
        "h:x", "git@h:",
    ],
)  # fmt: skip
def test_other_addresses_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(SourceError) as error:
        GitAddress.parse(url)
    assert "sesame" not in str(error.value)
    assert "source: " in str(error.value)


SETTINGS = GitSettings(token="from-env", ssh_key="KEY", known_hosts="hosts", agent="/agent")


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("https://h/x", ("x-access-token", "from-env")),
        ("http://127.0.0.1:80/x", ("x-access-token", "from-env")),
        ("http://localhost/x", ("x-access-token", "from-env")),
        ("http://h/x", ("", "")),  # in the clear, over the network
        ("http://127.0.0.1.evil/x", ("", "")),
        ("http://u:p@h/x", ("u", "p")),  # asked for
        ("file:///x", ("", "")),
        ("git@h:x", ("", "")),
    ],
)
def test_who_gets_the_token(url: str, login: tuple[str, str]) -> None:
    access = git_access(SourceSpec(type="git", url=url), GitAddress.parse(url), SETTINGS)
    assert (access.username, access.password) == login
    assert "from-env" not in repr(access)
    assert "from-env" not in repr(SETTINGS)


def test_a_source_brings_its_own() -> None:
    credentials = {"ssh-privatekey": "OWN", "known_hosts": "own hosts"}
    source = SourceSpec(type="git", url="git@h:x", credentials=credentials)
    access = git_access(source, GitAddress.parse("git@h:x"), SETTINGS)
    assert (access.ssh_key, access.known_hosts, access.agent) == ("OWN", "own hosts", "/agent")


def test_a_line_break_in_a_password_is_refused() -> None:
    source = SourceSpec(type="git", url="https://h/x", credentials={"password": "a\nhost=evil"})
    with pytest.raises(SourceError, match="line break"):
        git_access(source, GitAddress.parse("https://h/x"), SETTINGS)
