"""Owns the few forms of Markdown that a model card has. Knows no model."""

from collections.abc import Iterable, Sequence


def percent(part: int, whole: int) -> str:
    """Return a share in words, such as `97.5%`; of nothing `none`."""
    return f"{part / whole:.1%}" if whole else "none"


def plain(text: str) -> str:
    """Return text with the characters that Markdown and HTML take for their own made harmless."""
    for character in "\\`*_{}[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
