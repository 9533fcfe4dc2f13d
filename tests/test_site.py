"""The site: it builds without a warning, has every public name, and fetches nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastaug as fa
from docs import draw_frames, draw_matrices, site_hooks
from docs.site_docstrings import with_paragraphs

ROOT = Path(__file__).resolve().parents[1]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]+|"""
    r"""<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon))[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]+"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=200
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_pages_are_there(site: Path) -> None:
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")} - {"index"}
    pages |= {"benchmarks", "changelog", "contributing"}
    assert {page for page in pages if not (site / page / "index.html").is_file()} == set()


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    reference = "".join(page.read_text("utf-8") for page in (site / "api").rglob("*.html"))
    found = set(re.findall(r'id="(?:fastaug\.)(?:warp\.)?(\w+)"', reference))
    constants = {"IMAGENET", "INCEPTION"}
    assert set(fa.__all__) - found - constants == set()
    assert all(f"fastaug.{name}" in reference for name in constants)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    assert {found for page in pages for found in FETCHED.findall(page.read_text("utf-8"))} == set()
    sheets = [sheet.read_text("utf-8") for sheet in site.rglob("*.css")]
    assert not any(re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet) for sheet in sheets)


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js">',
        "<img alt=a src=//example.org/a.png>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="https://fonts.example" rel="preconnect" crossorigin>',
    ],
)
def test_what_is_fetched_is_found(html: str) -> None:
    assert FETCHED.search(html)
    assert not FETCHED.search(html.replace("https:", "").replace("//", "../"))


def test_the_search_finds_pages_of_the_api(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    assert any("transform_boxes" in entry["title"] for entry in index["docs"])


def test_links_between_the_repositorys_files_become_links_between_pages() -> None:
    def rewritten(text: str, page: str) -> str:
        class Page:
            class file:
                src_uri = page

        return site_hooks.on_page_markdown(text, Page())

    assert rewritten("[a](../benchmarks/README.md)", "index.md") == "[a](benchmarks.md)"
    assert rewritten("[a](../../benchmarks/README.md#scale)", "migration/dali.md") == "[a](../benchmarks.md#scale)"
    assert rewritten("[a](docs/architecture.md)", "contributing.md") == "[a](architecture.md)"
    assert rewritten("[a](../setup.py)", "index.md") == "a (`setup.py`)"
    assert rewritten("[a](no-such.md)", "index.md") == "[a](no-such.md)"
    assert rewritten("[a](https://example.org)", "index.md") == "[a](https://example.org)"


def test_sections_of_docstrings_become_paragraphs() -> None:
    text = """Turn.

    Args:
        degrees: [B].
    Returns:
        float64 [B],
            and more.
    Raises: ValueError: no.
    Inside a graph it is one node.
    """
    assert with_paragraphs(text) == (
        "Turn.\n\nArgs:\n    degrees: [B].\n\n**Returns:** float64 [B],\nand more.\n\n**Raises:** ValueError: no.\n\n"
        "Inside a graph it is one node."
    )


def test_the_matrices_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_matrices, "PICTURE", tmp_path / "matrices.png")
    draw_matrices.draw()
    assert (tmp_path / "matrices.png").stat().st_size > 50_000
    name, presize, side = draw_matrices.steps(300, 451)[0]
    assert (name, side) == ("presize", 460)
    square = draw_matrices.outline(presize, side, side)  # the middle of the photo, a whole pixel from its edge
    assert torch.allclose(square[:4], torch.tensor([[76.0, 0], [376, 0], [376, 300], [76, 300]]).double(), atol=1e-9)


def test_the_frames_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_frames, "PICTURE", tmp_path / "frames.png")
    draw_frames.draw()
    assert (tmp_path / "frames.png").stat().st_size > 50_000
