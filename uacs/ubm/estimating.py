"""What a UBM's folder has for its estimators: uncertainty.json, which is learned, and members/, its ensemble."""

from pathlib import Path

from pydantic import ValidationError

from uacs import fingerprints
from uacs.cascade.estimators import FREE, Fitted, known
from uacs.errors import BadInput
from uacs.ubm.settings import UbmConfig

MEMBERS = "members"
FITTED = "uncertainty.json"


def estimator_of(folder: Path, config: UbmConfig, wanted: str | None = None) -> str:
    """The estimator that is wanted, or the UBM's own; raises `BadInput` where the folder lacks what it needs."""
    try:
        name = known(wanted or config.estimator)
    except ValueError as error:
        raise BadInput(f"{folder}: {error}") from None
    fitted = load_fitted(folder) if name not in FREE else None
    if name not in FREE and (fitted is None or (name == "miss" and fitted.miss is None)):
        raise BadInput(f"{folder}: trained before there was estimator {name}; train it again")
    there = len(members(folder)) if name == "ev" else 0
    if name == "ev" and fitted and (not fitted.members or there != fitted.members):
        mend = "`uacs train ubm --estimator ev` with the same --out goes on with it"
        raise BadInput(f"{folder}: its ensemble is not whole, {there} UBMs of it are there; {mend}, or copy all of it")
    return name


def fingerprint(folder: Path, estimator: str) -> str:
    """Of all in a UBM's folder that its answers depend on; other estimators' things come and go beside it."""
    made = fingerprints.of_folder(folder)
    if estimator == "cbe":
        return made
    beside = [fingerprints.of_folder(place) for place in members(folder)] if estimator == "ev" else []
    fitted = load_fitted(folder)
    return fingerprints.of_settings([made, fitted and fitted.read_by(estimator), *beside])


def members(folder: Path) -> list[Path]:
    """The folders of a UBM's ensemble that are done, in order."""
    found = [place for place in (folder / MEMBERS).glob("*") if (place / "config.json").exists()]
    return sorted((place for place in found if not (place / "unfinished").exists()), key=lambda place: int(place.name))


def save_fitted(fitted: Fitted, folder: Path) -> None:
    """Write uncertainty.json whole or not at all."""
    aside = folder / f".{FITTED}.partial"
    aside.write_text(fitted.model_dump_json(indent=2) + "\n")
    aside.replace(folder / FITTED)


def load_fitted(folder: Path) -> Fitted | None:
    """What a UBM's estimators have learned; None where it was trained before they did."""
    path = folder / FITTED
    try:
        return Fitted.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise BadInput(f"{path}: cannot be read ({str(error).splitlines()[0]}); train the UBM again") from None
