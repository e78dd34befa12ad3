"""Owns how the commands say things: plain text, whatever is in it, and the lines about a published file."""

from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from conveyor_exporter.pipeline import Exported
    from conveyor_exporter.publish import Published


def say(console: Console, text: str) -> None:
    """Print a line as it is: nothing in it is taken for markup, and nothing is broken into several lines."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say_exported(console: Console, exported: "Exported", original: str) -> None:
    """Say what a verification found, and where the file is; `original` is what it was compared with."""
    say(console, f"  verified  ONNX against {original}: {exported.verification}")
    say_published(console, exported.published)


def say_published(console: Console, published: "Published") -> None:
    """Say where a file is, and its hash."""
    say(console, f"  file      {published.path} (version {published.version}, {published.size:,} bytes)")
    say(console, f"  sha256    {published.sha256}")
