"""Proves: every page can be reached, every link leads somewhere, and every module has its place among the API pages."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from support.repository import PACKAGE, REPOSITORY

DOCS = REPOSITORY / "docs"
RESULTS = DOCS / "results"
"""Each of its folders is a report, of which no page is written by hand."""
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parents[1] != RESULTS)
TEXTS = [*PAGES, *REPOSITORY.glob("*.md"), REPOSITORY / "speed" / "README.md"]

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def relative(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def links(page: Path) -> list[str]:
    """Link targets of a page that are not addresses on the internet."""
    found = LINK.findall(FENCED_CODE.sub("", page.read_text()))
    return [target for target in found if not re.match(r"https?:|mailto:", target)]


def linked_files(page: Path) -> set[Path]:
    return {(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"}


def object_exists(dotted_name: str) -> bool:
    """Whether a module of the package, or a name that a module defines, has this name."""
    path = REPOSITORY.joinpath(*dotted_name.split("."))
    if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
        return True
    module = next((p for p in (path.parent.with_suffix(".py"), path.parent / "__init__.py") if p.is_file()), None)
    return module is not None and any(
        getattr(node, "name", None) == path.name for node in ast.parse(module.read_text()).body
    )


@pytest.mark.parametrize("page", TEXTS, ids=relative)
def test_links_lead_to_files(page):
    assert not {path for path in linked_files(page) if not path.exists()}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_to_api_pages_name_what_exists(page):
    names = re.findall(r"#(nnunet_plugins[\w.]*)", " ".join(links(page)))
    assert not [name for name in names if not object_exists(name)]


def test_the_index_and_the_menu_lead_to_every_page():
    menu = set(re.findall(r"- ([\w/]+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(), re.MULTILINE))
    assert menu == {str(page.relative_to(DOCS)) for page in PAGES}
    index, api = DOCS / "index.md", DOCS / "api" / "index.md"
    assert linked_files(index) | linked_files(api) >= set(PAGES) - {index}


def test_api_pages_cover_the_package():
    shown = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
    assert len(shown) == len(set(shown))
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(shown) == {f"nnunet_plugins.{room}" for room in rooms - {"__init__", "__main__"}}


def test_pages_are_built_without_the_internet():
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    assert settings["strict"]
    assert settings["theme"]["name"] == "readthedocs" and not settings["theme"]["highlightjs"]
    assert not [page for page in PAGES if re.search(r"!\[[^]]*\]\(https?:", page.read_text())]
