"""Drawings without a library: enough SVG 1.1 for a timeline and a scatter plot."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

INK, FAINT, PAPER = "#22303c", "#d8dee4", "#ffffff"
COLOURS = {"alert": "#e0a100", "throttle": "#d9730d", "cut": "#c4314b", "lock": "#5b1a8b", "none": "#9aa5ae"}


class Drawing:
    """Shapes in pixels, origin at the top left."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width = width
        self.height = height
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label={quoteattr(title)}>',
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]
        self.text(16, 24, title, size=15, bold=True)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 12,
        anchor: str = "start",
        colour: str = INK,
        bold: bool = False,
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, width: float = 1, dash: str = ""
    ) -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashes}/>'
        )

    def rect(self, x: float, y: float, width: float, height: float, colour: str, tip: str = "") -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.5, width):.1f}" height="{max(0.0, height):.1f}" fill="{colour}">'
            f"{_tip(tip)}</rect>"
        )

    def dot(self, x: float, y: float, radius: float, colour: str, tip: str = "", *, hollow: bool = False) -> None:
        fill = f'fill="none" stroke="{colour}" stroke-width="1.6"' if hollow else f'fill="{colour}"'
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {fill}>{_tip(tip)}</circle>')

    def svg(self) -> str:
        return "\n".join([*self._parts, "</svg>\n"])


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
