"""What the commands' options are made of."""

import math
import shutil
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)
ESTIMATORS = ("cbe", "ptd", "ev", "temperature", "error", "miss", "margin", "strength", "at_odds")
"""Those of `uacs.cascade.estimators`, which takes a second to import."""


class Somewhere(click.ParamType):
    """A path, or a URI that pyarrow reaches."""

    name = "place"

    def convert(self, value, param, ctx):
        """A URI stays the string that it is."""
        return value if isinstance(value, Path) or "://" in value else Path(value)


class Share(click.ParamType):
    """A number, or one in percent."""

    name = "number"

    def convert(self, value, param, ctx):
        """0.4 of 40%."""
        if isinstance(value, float):
            return value
        try:
            number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
        except ValueError:
            self.fail(f"'{value}' is no number, as 0.4 or 40%", param, ctx)
        return finite(ctx, param, number)


PLACE, SHARE = Somewhere(), Share()


def estimator(default: str):
    """How the small model says how unsure it is."""
    told = f"How the small model's uncertainty is estimated, see docs/estimators.md; {default}."
    return click.option("--estimator", type=click.Choice(ESTIMATORS), help=told)


def finite(context: click.Context | None, option: click.Parameter | None, value: float | None) -> float | None:
    """Refuse nan and inf."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number to reckon with")
    return value


def clear_afterwards(out: Path | str) -> None:
    """Raw data is prepared anew by every command; what it was prepared into goes with the command."""
    from uacs.data.prepare import SCRATCH

    if isinstance(out, Path):
        click.get_current_context().call_on_close(lambda: shutil.rmtree(out / SCRATCH, ignore_errors=True))


def notes(said: list[str], most: int = 5) -> None:
    """Say what is worth a note, on stderr."""
    for note in said[:most]:
        click.echo(f"note: {note}", err=True)
    if len(said) > most:
        click.echo(f"note: and {len(said) - most} more notes", err=True)
