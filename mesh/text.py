"""Text that a file can hold: what models and task files bring may contain half a character."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def well_formed(text: str) -> str:
    """`text` with every lone surrogate replaced by "?"; JSON admits them, UTF-8 files and tokenizers do not."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


Text = Annotated[str, AfterValidator(well_formed)]
