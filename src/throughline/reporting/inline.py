"""Makes matplotlib's SVG fit for a page: its fonts and colours, unique ids, a name for screen readers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from throughline.contracts.errors import InternalError
from throughline.reporting.palette import css_colours

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"\s*font-family:[^;]*;?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(source: str, *, prefix: str, label: str) -> str:
    """Returns one `<svg>` element without prologue, metadata or scripts.

    Args:
        source: What matplotlib wrote, with text kept as text.
        prefix: Put before every id that is referred to; all other ids are dropped.
        label: The figure's accessible name.

    Raises:
        InternalError: If the source is not an SVG document.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(source)  # noqa: S314 - written by matplotlib a moment ago, no DTD entities
    if root.tag != f"{{{_SVG}}}svg":
        raise InternalError("plot is not an SVG document", seen=root.tag)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    used = _references(root)
    colours = css_colours()
    for element in root.iter():
        _rewrite(element, used, prefix, colours)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("font-family", _FONTS)
    _drop_empty_lines(root)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _references(root: ElementTree.Element) -> set[str]:
    used = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == f"{{{_XLINK}}}href" and value.startswith("#"):
                used.add(value[1:])
            used.update(_REFERENCE.findall(value))
    return used


def _rewrite(element: ElementTree.Element, used: set[str], prefix: str, colours: dict[str, str]) -> None:
    name = element.attrib.get("id")
    if name is not None:
        if name in used:
            element.set("id", f"{prefix}-{name}")
        else:
            del element.attrib["id"]
    href = element.attrib.get(f"{{{_XLINK}}}href")
    if href is not None and href.startswith("#"):
        # Plain href: browsers of today read it, and HTML needs no namespace for it.
        del element.attrib[f"{{{_XLINK}}}href"]
        element.set("href", f"#{prefix}-{href[1:]}")
    for key, value in list(element.attrib.items()):
        if "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))
    style = element.attrib.get("style")
    if element.tag == f"{{{_SVG}}}text" and style is not None and "fill" not in style:
        # SVG's default fill is black, which a dark card swallows.
        style += "; fill: currentColor"
    if style is not None:
        style = _FAMILY.sub("", style)
        element.set("style", _HEX.sub(lambda found: colours.get(found[0], found[0]), style))


def _drop_empty_lines(root: ElementTree.Element) -> None:
    for element in root.iter():
        if not (element.tail or "").strip():
            element.tail = "\n" if element.tail else None
        if element.tag != f"{{{_SVG}}}text" and not (element.text or "").strip():
            element.text = None
