"""What git says when a repository cannot be reached -> what a person can do about it."""

from __future__ import annotations

import re

from llamadeploy.sources.base import SourceError
from llamadeploy.sources.git_access import PREFIX, GitAccess
from llamadeploy.sources.git_address import GitAddress

_HOST_KEY_CHANGED = re.compile("REMOTE HOST IDENTIFICATION HAS CHANGED")
_HOST_KEY = re.compile("Host key verification failed|No .* host key is known")
_KEY = re.compile(r"Permission denied \(|Too many authentication failures|Load key|invalid format")
_LOGIN = re.compile(
    "Authentication failed|could not read (Username|Password)|terminal prompts disabled"
    "|Access denied|returned error: 40[13]|Invalid username or password",
    re.IGNORECASE,
)
_MISSING = re.compile(
    "not found|does not appear to be a git repository|returned error: 404|does not exist",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    "Could not resolve|Failed to connect|Connection (refused|timed out|reset|closed)"
    "|Couldn't connect|No route to host|Network is unreachable|Operation timed out",
    re.IGNORECASE,
)
_CERTIFICATE = re.compile("certificate|SSL|TLS|GnuTLS", re.IGNORECASE)
_PROTOCOL = re.compile("transport '.*' not allowed|protocol .* not supported|disabled in redirect")


def git_error(address: GitAddress, access: GitAccess, said: str) -> SourceError:
    """The error for what git ``said``, which is without secrets already."""
    if _HOST_KEY_CHANGED.search(said):
        wrong = f"the host key of '{address.host}' is not the one that is known"
        right = (
            "somebody may be listening in: ask whoever runs the host for its key's fingerprint, "
            "and only then replace its line in known_hosts"
        )
    elif _HOST_KEY.search(said):
        wrong, right = f"the host key of '{address.host}' is not known", _host_key_cure(address)
    elif address.scheme == "ssh" and _KEY.search(said):
        wrong, right = _key_problem(access, said)
    elif _LOGIN.search(said):
        wrong, right = _login_problem(address, access)
    elif _UNREACHABLE.search(said):
        wrong = f"'{address.host}' cannot be reached"
        right = "check the host, the network, and the variables HTTPS_PROXY and NO_PROXY"
    elif _MISSING.search(said):
        wrong = "there is no such repository, or it is not shown to this user"
        right = "check the URL, and what the token or key may read"
    elif _PROTOCOL.search(said):
        wrong = "it redirects to another protocol"
        right = "write the URL it redirects to"
    elif _CERTIFICATE.search(said):
        wrong = f"the certificate of '{address.host}' is not trusted"
        right = "set GIT_SSL_CAINFO to a file with the certificate authority that signed it"
    else:
        wrong, right = "git failed", "check the URL with 'git ls-remote'"
    last = _last_line(said)
    return SourceError(f"source: {address.url}: {wrong}; {right}" + (f" ({last})" if last else ""))


def _host_key_cure(address: GitAddress) -> str:
    port = f"-p {address.port} " if address.port else ""
    scan = f"ssh-keyscan {port}{address.hostname}"
    return (
        f"compare what '{scan}' prints with the fingerprint that the host publishes, and put it "
        f"into ~/.ssh/known_hosts, into a file that {PREFIX}KNOWN_HOSTS names, "
        "or into the manifest's knownHostsFrom"
    )


def _key_problem(access: GitAccess, said: str) -> tuple[str, str]:
    if re.search("Load key|invalid format|error in libcrypto", said):
        wrong = "the private key cannot be read"
        return wrong, "give the whole text of a key without a passphrase, or use an SSH agent"
    if access.ssh_key is not None:
        wrong = "the host does not accept the key"
        return wrong, "add its public half to the repository's deploy keys, or give another key"
    return "the host accepts no key of this user", (
        "load one into an SSH agent before the server starts (SSH_AUTH_SOCK), "
        f"or set {PREFIX}SSH_KEY_FILE to the path of a private key"
    )


def _login_problem(address: GitAddress, access: GitAccess) -> tuple[str, str]:
    if access.has_login:
        wrong = "the host does not accept the user and token"
        return wrong, "check that the token is still valid and may read the repository"
    if address.scheme == "http" and not address.is_loopback:
        wrong = "it asks for a login, and a token is not sent over plain HTTP"
        return wrong, "write an https:// URL"
    return "it asks for a login, or there is no such repository", (
        f"set {PREFIX}TOKEN in the server's environment to a token that may read it"
    )


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "remote:", "ERROR:"))] or lines
    return told[0][:300] if told else ""
