"""Reading URLs that may hold a password: no error shows any part of it."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def split_url(url: str) -> SplitResult:
    """``urlsplit``, with a port that is a number where one host is named.

    A password with ``/``, ``?`` or ``#`` ends the host's part of a URL too early, so that the
    library would take its beginning for a port, and show it.

    Raises:
        ValueError: what is wrong, and what would be right.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(
            "a [ or ] stands where no IPv6 address is (in a password write %5B and %5D)"
        ) from None
    rest = f"{parts.path}{parts.query}{parts.fragment}"
    if parts.netloc and "@" not in parts.netloc and "@" in rest:
        raise ValueError(
            "an @ stands behind the host: in a user name or password write / as %2F, ? as %3F and "
            "# as %23, elsewhere @ as %40"
        )
    try:
        if "," not in parts.netloc:
            _ = parts.port
    except ValueError:
        raise ValueError("its port must be a number from 0 to 65535") from None
    return parts
