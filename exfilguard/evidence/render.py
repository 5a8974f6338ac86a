"""A document as one HTML file that needs nothing else, and as PDF."""

from __future__ import annotations

from pathlib import Path

import jinja2

from ..errors import EvidenceError
from .document import Document

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


def html(document: Document) -> str:
    """No script, no link, no picture: it can be filed and mailed as it is. Everything in it is escaped."""
    return _ENVIRONMENT.get_template("report.html.j2").render(d=document)


def pdf(document: Document) -> bytes:
    """Raises EvidenceError when Pango is not installed."""
    try:
        import weasyprint
    except OSError:
        raise EvidenceError(
            "PDF needs Pango: apt install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0; or print the HTML report"
        ) from None

    def nothing(url: str) -> dict[str, object]:
        raise ValueError("a report refers to nothing outside itself")

    out: bytes = weasyprint.HTML(string=html(document), url_fetcher=nothing).write_pdf()
    return out
