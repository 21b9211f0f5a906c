"""The snippets of a page in docs/, so that tests run what readers copy."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def snippets(page: str, language: str) -> list[str]:
    """Returns the code blocks of one language in a page, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
