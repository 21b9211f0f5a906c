"""The console's files, held to what they promise: small, legible, and never markup of what others wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pmoves_mesh.views.http.console import pages
from pmoves_mesh.views.http.console.accept import prefers, takes

STATIC = Path(pages.__file__).parent / "static"
FILES = sorted(STATIC.iterdir())
SCRIPTS = sorted(STATIC.glob("*.js"))
STYLE = (STATIC / "console.css").read_text()
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|setHTML|parseFromString"
    r"|srcdoc|\beval\(|new Function|javascript:"
)
# What is legible on what; the marks stand on their tints, and the tints in rows and banners too.
PAIRS = [
    *((ink, ground) for ink in ("ink", "muted", "accent", "bad") for ground in ("page", "surface", "sunken")),
    *((kind, f"{kind}-tint") for kind in ("good", "bad", "warn", "past", "accent")),
    *((kind, "surface") for kind in ("good", "warn", "past")),
    ("ink", "accent-tint"),
    ("on-accent", "accent"),
]


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (CHROMIUM, True),
        (FIREFOX, True),
        ("text/html", True),
        ("TEXT/HTML ; Q=0.4, application/json;q=0.3", True),
        ("text/*, application/json;q=0.9", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("text/html, application/json", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=2, */*;q=0.1", False),
        ("text/html;q=abc", False),
        (",;q=1,,", False),
    ],
)
def test_only_whoever_likes_html_better_than_json_gets_the_page(accept: str, page: bool):
    assert prefers(accept, "text/html", "application/json") is page


@pytest.mark.parametrize(
    ("accept", "packed"),
    [("gzip, deflate, br", True), ("gzip;q=0", False), ("br", False), ("", False), ("*", False)],
)
def test_only_whoever_names_gzip_gets_it(accept: str, packed: bool):
    assert takes(accept, "gzip") is packed


def test_all_of_the_page_is_below_150_kilobytes():
    assert sum(len(file.read_bytes()) for file in FILES) < pages.FILES_BYTES_MAX == 150_000


def test_every_file_is_served_under_its_own_name():
    assert sorted(pages.load()) == [file.name for file in FILES]


def test_every_script_is_one_idea_of_at_most_250_lines_and_begins_by_saying_which():
    assert not [file.name for file in SCRIPTS if len(file.read_text().splitlines()) > 250]
    assert not [file.name for file in SCRIPTS if not file.read_text().startswith("// ")]


def test_no_script_makes_markup_of_text():
    assert not [f"{file.name}: {found[0]}" for file in FILES if (found := MARKUP.search(file.read_text()))]


def test_nothing_in_the_page_stands_in_another_place_than_its_files():
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    texts = {file.name: file.read_text().replace("http://www.w3.org/2000/svg", "") for file in FILES}
    elsewhere = re.compile(r"(https?:)?//\w+\.\w|url\((?!#)|@import")
    assert not [name for name, text in texts.items() if elsewhere.search(text)]


def imports_of(text: str) -> dict[str, set[str]]:
    """Returns the names that a script imports, by the file."""
    found = re.findall(r"^import \{([^}]+)\} from \"\./(.+)\";$", text, re.MULTILINE)
    return {source: set(re.findall(r"\w+", names)) for names, source in found}


def exports_of(text: str) -> set[str]:
    return set(re.findall(r"^export (?:async )?(?:class|function|const) (\w+)", text, re.MULTILINE))


def test_every_script_imports_only_what_is_there_and_uses_it():
    for file in SCRIPTS:
        text = file.read_text()
        for source, names in imports_of(text).items():
            assert names <= exports_of((STATIC / source).read_text()), f"{file.name} from {source}"
            assert not [name for name in names if len(re.findall(rf"\b{name}\b", text)) < 2], file.name


def test_every_script_exports_only_what_another_needs():
    views = {"mesh.js", "services.js", "timeline.js", "trust.js"}
    for file in SCRIPTS:
        others = [imports_of(other.read_text()).get(file.name, set()) for other in SCRIPTS]
        needed = set().union(*others) | ({"open"} if file.name in views else set())
        assert exports_of(file.read_text()) == needed, file.name


def tokens(scheme: str) -> dict[str, str]:
    """Returns the colours of a scheme; what the dark one does not name is as in the light one."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    text = light if scheme == "light" else light + dark
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text))


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_every_text_has_a_contrast_of_four_and_a_half(scheme: str, ink: str, ground: str):
    """Source: WCAG 2.2, success criterion 1.4.3."""
    named = tokens(scheme)
    assert contrast(named[ink], named[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_edge_of_every_control_has_a_contrast_of_three(scheme: str):
    """Source: WCAG 2.2, success criterion 1.4.11."""
    named = tokens(scheme)
    assert min(contrast(named["strong-line"], named[ground]) for ground in ("page", "surface")) >= 3


def test_no_rule_of_the_style_names_a_colour_but_by_its_token():
    rules = STYLE.partition("* { box-sizing")[2]
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b", rules)
