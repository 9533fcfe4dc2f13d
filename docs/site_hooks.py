"""What the site has that docs/ has not: the order of the pages, and the pages that lie elsewhere in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
REFERENCE = ("samples", "augment", "warp", "targets", "loader", "training", "models", "matrices")


def _pages(folder: str) -> list[str]:
    return [f"{folder}/{page.name}" for page in sorted((ROOT / "docs" / folder).glob("*.md"))]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    sections: list[dict[str, Any]] = [
        {"Start": ["index.md", "tutorial.md", "how-it-works.md"]},
        {
            "How to": [
                *_pages("how-to"),
                *(page for page in ("loading.md", "training.md") if (ROOT / "docs" / page).exists()),
            ]
        },
        {"Coming from": _pages("migration")},
        {"Reference": [f"api/{page}.md" for page in REFERENCE]},
        {"About": ["architecture.md", *ELSEWHERE.values()]},
    ]
    config.nav = sections
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages from elsewhere, and the pictures that they show."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    files.append(
        File.generated(config, "results/fidelity.png", abs_src_path=str(ROOT / "benchmarks/results/fidelity.png"))
    )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between the repository's files, made links between the site's pages; files that are no page lose theirs."""
    here = next(
        (source for source, name in ELSEWHERE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}"
    )

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        path = (ROOT / here).parent.joinpath(target).resolve()
        if not path.exists():
            return found[0]  # MkDocs says what is wrong with it
        inside = str(path.relative_to(ROOT))
        if inside in ELSEWHERE:
            to = ELSEWHERE[inside]
        elif inside.startswith("docs/"):
            to = inside.removeprefix("docs/")
        elif inside.startswith("benchmarks/results/") and path.suffix == ".png":
            to = inside.removeprefix("benchmarks/")
        else:
            return f"{text.removeprefix('[').removesuffix(']')} (`{inside}`)"
        up = "../" * page.file.src_uri.count("/")
        return f"{text}({up}{to}{anchor or ''})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)#:\s]+)(#[^)\s]*)?\)", link, markdown)
