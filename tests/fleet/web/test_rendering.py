"""Templates escape whatever they print; colours can be read by everybody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from support.dashboard import Tags

from edgectl.fleet.web.rendering import HEADERS, STATIC, Part, asset, environment, part_markup

WEB = Path(__file__).resolve().parents[3] / "fleet/edgectl/fleet/web"
TEMPLATES = sorted((WEB / "templates").glob("*.html"))


@given(st.text())
def test_a_template_escapes_what_it_prints(text: str) -> None:
    html = (
        environment()
        .from_string("<p title=\"{{ x }}\">{{ x }}</p><a href='/d/{{ x | urlencode }}'>y</a>")
        .render(x=text)
    )
    tags = Tags(html)
    assert [tag for tag, _ in tags.found] == ["p", "a"]
    assert set(tags.found[0][1]) == {"title"}
    assert set(tags.found[1][1]) == {"href"}


def test_a_template_prints_nothing_that_hides_or_turns_text() -> None:
    html = (
        environment().from_string("{{ x }}{{ y }}").render(x="gate\u202egpj", y=Markup("<b>ours\u202e</b>"))
    )
    assert html == "gate\ufffdgpj<b>ours\u202e</b>"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda p: p.name)
def test_no_template_marks_anything_safe_or_has_script_or_style_in_it(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"\|\s*safe|autoescape|<style|style=|\son[a-z]+=|javascript:|https?://", text)
    assert not re.search(r"<script(?! type=\"module\" src=\"\{\{ asset)", text)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda p: p.name)
def test_every_heading_of_a_table_has_a_scope_and_every_picture_says_what_it_is(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"<th(?![^>]*scope=)(?!ead)[ >]", text)
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        assert 'role="img"' in svg
        assert "<title" in svg
        assert "<desc" in svg


def test_a_part_is_put_in_as_it_was_made_and_its_name_is_escaped() -> None:
    assert part_markup({"a": Part("<b>x</b>", '"t')}, "a") == (
        '<div class="part" id="part-a" data-tag="&#34;t"><b>x</b></div>'
    )


def test_nothing_may_run_that_is_not_a_file_of_ours() -> None:
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "script-src 'self'; " in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_a_file_has_another_address_when_it_changes() -> None:
    assert len({asset(name)[1] for name in STATIC}) == len(STATIC)
    assert (
        environment().from_string("{{ asset('dash.js') }}").render()
        == f"/static/dash.js?v={asset('dash.js')[1]}"
    )


def colours(css: str) -> list[dict[str, str]]:
    """Of the light and the dark theme."""
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    return [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]+);", b)) for b in blocks]


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, 1.4.3."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)
    assert contrast("#777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_in_light_and_dark(theme: int) -> None:
    found = colours((WEB / "static/dash.css").read_text())
    c = found[theme]
    text = [
        (ink, ground)
        for ink in ("ink", "soft", "accent", "bad", "warn", "good")
        for ground in ("card", "ground")
    ]
    text += [
        ("on-accent", "accent"),
        ("bad", "bad-ground"),
        ("warn", "warn-ground"),
        ("ink", "bad-ground"),
        ("ink", "warn-ground"),
    ]
    text += [(series, "card") for series in ("c0", "c1", "c2", "c3")]
    weak = {
        pair: round(contrast(c[pair[0]], c[pair[1]]), 2)
        for pair in text
        if contrast(c[pair[0]], c[pair[1]]) < 4.5
    }
    assert weak == {}
    controls = {k: contrast(c[k], c["card"]) for k in ("control", "k-fine", "k-busy", "k-failed", "k-back")}
    assert {k for k, v in controls.items() if v < 3} == set(), (
        "edges of what is operated, and parts of bars: 1.4.11"
    )
