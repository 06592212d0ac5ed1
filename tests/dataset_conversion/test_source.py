"""Proves: patterns find exactly the files that a plain slow matcher finds, and pair images with masks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_plugins.dataset_conversion.pairing import filled, paired
from nnunet_plugins.dataset_conversion.source import Source, pattern_expression, walk, without_ending


def match(pattern: str, text: str) -> list[list[str]]:
    """List all ways to match the whole text, each as the texts that the wildcards stand for, longest first."""
    if not pattern:
        return [] if text else [[]]
    first, rest = pattern[0], pattern[1:]
    if first in "*#":
        allowed = 0
        while allowed < len(text) and (text[allowed] != "/" if first == "*" else text[allowed] in "0123456789"):
            allowed += 1
        lengths = range(allowed, -1 if first == "*" else 0, -1)
        return [[text[:length], *others] for length in lengths for others in match(rest, text[length:])]
    if first == "?":
        return match(rest, text[1:]) if text and text[0] != "/" else []
    if first == "{":
        options, _, rest = rest.partition("}")
        return [found for option in options.split(",") for found in match(option + rest, text)]
    return match(rest, text[1:]) if text and text[0].lower() == first.lower() else []


def match_end(pattern: str, path: str) -> list[str] | None:
    """Texts that the wildcards stand for if the end of a path, from a name's beginning, matches; None: no match."""
    starts = [0, *(index + 1 for index, character in enumerate(path) if character == "/")]
    for start in starts:
        if ways := match(pattern, path[start:]):
            return ways[0]
    return None


letters = st.text("aB1.-_(é ", min_size=1, max_size=4)
part = st.one_of(
    letters,
    st.sampled_from(["*", "#", "?", "{a,B1}", "{1,1a}", ".png", "/"]),
    st.sampled_from(["{png,tif}", "*_", "/*"]),
)
patterns = st.lists(part, min_size=1, max_size=5).map("".join)
paths = st.lists(st.text("aB1.-_(é ", min_size=1, max_size=6), min_size=1, max_size=3).map("/".join)


@given(patterns, st.lists(paths, min_size=1, max_size=8))
def test_patterns_find_what_a_plain_matcher_finds(pattern, candidates):
    expression = pattern_expression(pattern)
    for path in candidates:
        found = expression.search(path)
        expected = match_end(pattern, path)
        assert (found is None) == (expected is None), (pattern, path)
        if found and expected is not None:
            assert list(found.groups()) == expected, (pattern, path)


@given(patterns, st.data())
def test_patterns_find_what_is_made_from_them(pattern, data):
    """Each path is the pattern with every wildcard filled in, also in upper case and below some folders."""
    path = pattern
    for wildcards, values in (
        ("{a,B1}", ["a", "B1"]),
        ("{1,1a}", ["1", "1a"]),
        ("{png,tif}", ["png", "tif"]),
        ("*", ["", "x", "x.y", "12"]),
        ("#", ["0", "12", "007"]),
        ("?", ["x", "9", "."]),
    ):
        while wildcards in path:
            path = path.replace(wildcards, data.draw(st.sampled_from(values)), 1)
    for found in (path, path.upper(), f"some/folder/{path}"):
        if len(found) == len(path) or found.startswith("some"):
            assert pattern_expression(pattern).search(found), (pattern, found)


@pytest.mark.parametrize(
    "pattern, path, groups",
    [
        ("images/*.png", "x/images/a.b.png", ("a.b",)),
        ("images/*.png", "x/myimages/a.png", None),
        ("images/*.png", "x/images/deep/a.png", None),
        ("images/*.png", "x/images/a.png.txt", None),
        ("Images\\*.PNG", "x/images/a.png", ("a",)),
        ("./images/*.png", "images/a.png", ("a",)),
        ("img#.nii.gz", "img0001.nii.gz", ("0001",)),
        ("img#.nii.gz", "img.nii.gz", None),
        ("img#.nii.gz", "img1a.nii.gz", None),
        ("#/#.png", "12/3.png", ("12", "3")),
        ("a?.png", "ab.png", ()),
        ("a?.png", "a/.png", None),
        ("{image,images}/*.{png,tif}", "images/1.tif", ("1",)),
        ("{image,images}/*.{png,tif}", "images/1.bmp", None),
        ("a,b*.png", "a,b1.png", ("1",)),
        ("a}b*.png", "a}b1.png", ("1",)),
        ("a.c*", "abc1", None),
        ("a[1]*", "a[1]2", ("2",)),
    ],
)
def test_examples_of_patterns(pattern, path, groups):
    found = pattern_expression(pattern).search(path)
    assert (found.groups() if found else None) == groups


@pytest.mark.parametrize(
    "name, stem",
    [("a.png", "a"), ("a.PNG", "a"), ("a.nii.gz", "a"), ("a.NII", "a"), ("a.b.jpeg", "a.b"), ("a.txt", "a.txt")],
)
def test_endings_of_pictures_and_volumes_are_removed_once(name, stem):
    assert without_ending(name) == stem
    assert without_ending(stem + ".png.png") == stem + ".png"


def test_missing_files_are_named_as_they_should_be():
    assert filled("images/*.png", "3") == "images/3.png"
    assert filled("img#.nii", "3") == "img3.nii"
    assert filled("#/#.png", "3_4") == "#/#.png for 3_4"


# ---- folders ---------------------------------------------------------------------------------------------------------
def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_hidden_files_and_those_of_macos_and_windows_are_no_files(tmp_path):
    make(
        tmp_path,
        "b/1.png",
        "a/2.png",
        ".hidden/3.png",
        "a/.4.png",
        "a/._2.png",
        "__MACOSX/a/5.png",
        "c/Thumbs.db",
        "c/notes.txt",
    )
    assert [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path)] == ["a/2.png", "b/1.png", "c/notes.txt"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "real/1.png", "download/2.png")
    (tmp_path / "download/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/back").symlink_to(tmp_path / "download")
    (tmp_path / "download/self").symlink_to(tmp_path / "download")
    with Source(tmp_path / "download") as source:
        assert list(source.find("*.png")) == ["2", "1"] or list(source.find("*.png")) == ["1", "2"]


def test_two_paths_to_one_folder_are_both_searched(tmp_path):
    make(tmp_path, "download/all/1.png")
    for name in ("images", "z_images"):
        (tmp_path / "download" / name).symlink_to(tmp_path / "download" / "all")
    with Source(tmp_path / "download") as source:
        for folder in ("all", "images", "z_images", "{all,images}"):
            assert list(source.find(f"{folder}/*.png")) == ["1"] and not source.problems


def test_download_in_a_hidden_folder_is_searched(tmp_path):
    make(tmp_path, ".cache/images/1.png")
    with Source(tmp_path / ".cache") as source:
        assert list(source.find("images/*.png")) == ["1"]


def test_relative_source_is_the_same_wherever_one_goes(tmp_path, monkeypatch):
    make(tmp_path, "images/1.png")
    monkeypatch.chdir(tmp_path)
    with Source(Path("images")) as source:
        monkeypatch.chdir("/")
        assert list(source.find("images/*.png").values()) == [tmp_path / "images/1.png"]


def test_two_files_for_one_name_are_one_problem(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png")
    with Source(tmp_path) as source:
        assert source.find("*.png") == {"1": tmp_path / "a/1.png"}
        source.find("*.png")
        assert source.problems == [
            f"{tmp_path}/a/1.png and {tmp_path}/b/1.png are both '1': give a pattern that tells them apart"
        ]


def test_pairs_need_both_and_the_others_are_problems(tmp_path):
    make(tmp_path, "i/1.png", "i/2.png", "m/2_x.png", "m/3_x.png")
    with Source(tmp_path) as source:
        (case,) = paired(source, "i/*.png", "m/*_x.png", name="case{}".format, group="g{}".format, paper_part="val")
        assert (case.name, case.group, case.paper_part, case.test) == ("case2", "g2", "val", False)
        assert case.images == (tmp_path / "i/2.png",) and case.label == (tmp_path / "m/2_x.png",)
        assert source.problems == [
            f"{tmp_path}/i/1.png has no mask: there is no m/1_x.png; add it, or move the file away",
            f"{tmp_path}/m/3_x.png has no image: there is no i/3.png; add it, or move the file away",
        ]
