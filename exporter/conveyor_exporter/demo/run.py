"""Owns what the demo command does and says. Loads torch only when there is something to train."""

from pathlib import Path

from rich.console import Console

from conveyor_exporter.publish import latest
from conveyor_exporter.report.speech import say, say_exported, say_published

MODELS = ("parity", "digits")


def run_demo(console: Console, repository: Path, epochs: int | None, seed: int, retrain: bool) -> None:
    """Make sure that the repository has the demo models: train, export, verify and publish what is missing.

    Raises:
        ExporterError: something is missing on this machine, or an export did not verify.
    """
    missing = []
    for name in MODELS:
        published = latest(repository, name)
        if retrain or published is None:
            missing.append(name)
        else:
            say(console, f"{name}: version {published.version} is in the repository already, nothing to do")
            say_published(console, published)
    if missing:
        _train(console, missing, repository, epochs, seed)
    else:
        say(console, "Train them anew, as a new version, with --retrain.")


def _train(console: Console, names: list[str], repository: Path, epochs: int | None, seed: int) -> None:
    from conveyor_exporter.demo import digits

    training, test = digits.split(digits.load_digits(), seed)
    say(console, f"{len(training):,} real handwritten digits to train on, {len(test):,} others to test with")
    from conveyor_exporter.demo import recipes  # loads torch, which takes seconds

    for name in names:
        recipe = recipes.RECIPES[name]
        say(console, f"{name}: {recipe.question}")
        trained = recipes.train(recipe, training, test, epochs, seed)
        say(console, f"  accuracy  {trained.accuracy:.1%} on the {len(test):,} test digits")
        with console.status("exporting and verifying"):
            exported = recipes.export_trained(name, trained, training, test, repository)
        say_exported(console, exported, "torch")
        say(console, f"  card      {exported.published.path.with_name('README.md')}")
