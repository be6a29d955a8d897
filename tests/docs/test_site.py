"""The site builds without a warning, and what is written from the code is up to date."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from docs.site import __main__ as site
from docs.site import hooks

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    config = ROOT / "mkdocs.yml"
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", folder / "site"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    built = tmp_path / "site"
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert all((built / page).exists() for page in pages)
    assert 'class="mermaid"' in (built / "concepts.html").read_text()
    assert not list(built.rglob("*.py"))
    assert "```" not in (built / "quickstart.html").read_text(), "a code block is not one"
    # Nothing is fetched from elsewhere but by the diagrams, whose script the theme loads then.
    assert "fonts.googleapis" not in (built / "index.html").read_text()


def test_links_out_of_the_docs_must_exist(caplog) -> None:
    class Page:
        class file:
            src_uri = "reference/made-up.md"

    def converted(text: str, **config: str) -> str:
        return hooks.on_page_markdown(text, page=Page, config=config)

    assert converted("see [crds/](../../crds) and [here](../cli.md)") == (
        "see `crds` and [here](../cli.md)"
    )
    assert converted("[the Makefile's targets](../../Makefile)") == (
        "the Makefile's targets (`Makefile`)"
    )
    assert not caplog.records
    url = "https://code.example/us/it"
    assert converted("[x](../../Makefile#L3)", repo_url=url) == f"[x]({url}/blob/main/Makefile)"
    converted("[gone](../../nowhere.md)")
    assert "nowhere.md, which does not exist" in caplog.text


def test_pages_from_code_are_up_to_date() -> None:
    for name, page in site.PAGES.items():
        assert (DOCS / "reference" / name).read_text() == page(), f"{name}: run `make reference`"
