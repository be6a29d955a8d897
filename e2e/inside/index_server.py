"""Runs in a pod: a package index (PEP 503) with two versions of one package, made on the spot.

python index_server.py FOLDER PORT
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PACKAGE = "greetings"


def wheel(folder: Path, version: str) -> str:
    """Write it; gives the link of the index's page."""
    path = folder / f"{PACKAGE}-{version}-py3-none-any.whl"
    info = f"{PACKAGE}-{version}.dist-info"
    files = {
        f"{PACKAGE}.py": f'WORD = "hello from {version}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: e2e\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f'<a href="{path.name}#sha256={digest}">{path.name}</a><br>\n'


folder = Path(sys.argv[1]) / "simple" / PACKAGE
folder.mkdir(parents=True)
links = "".join(wheel(folder, version) for version in ("1.0", "1.1"))
(folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
handler = partial(SimpleHTTPRequestHandler, directory=sys.argv[1])
ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), handler).serve_forever()
