"""What the site has besides the pages of this folder: files that stand above it, and public names in full.

A hook of MkDocs (`mkdocs.yml`). Links in the pages are right in the repository; here they are led to where
those files are in the site.
"""

import re
import runpy
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[1]
ABOVE = {
    "README.md": "index.md",
    **{name: name for name in ("README.ja.md", "CHANGELOG.md", "CONTRIBUTING.md")},
}
"""Pages that stand above this folder, and where they are in the site."""
FETCHED = "https://unpkg.com/iframe-worker/shim"
LINK = re.compile(r"""(?<=\]\()[^)\s]+(?=\))|(?<=src=")[^"]+(?=")""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what stands above this folder, and the page of all public names."""
    for name, place in ABOVE.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in [ROOT / "LICENSE", *sorted((ROOT / "recipes").glob("*.yaml"))]:
        place = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, content=path.read_text(encoding="utf-8")))
    files.append(File.generated(config, "names-in-full.md", content=names_in_full()))
    return files


def names_in_full() -> str:
    """Return a page that mkdocstrings fills from the docstrings of all public names."""
    names = runpy.run_path(str(ROOT / "docs" / "names.py"))
    lines = ["# Public names in full", ""]
    for module, said in names["public_names"]():
        lines += [f"## `{module}`", ""]
        lines += [
            f"::: {module}.{name}\n" for name, words in said.items() if not words.startswith(names["OLD"])
        ]
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to files that stand above this folder to where these are in the site."""
    above = page.file.src_uri in ABOVE.values()

    def led(found: re.Match[str]) -> str:
        target = found[0]
        if above:
            return ABOVE.get(target, target.removeprefix("docs/"))
        return re.sub(r"^\.\./(?=recipes/|LICENSE)", "", target)

    return LINK.sub(led, markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Take from this folder what the theme's search would fetch from a server."""
    return output.replace(FETCHED, get_relative_url("worker_in_frame.js", page.url))
