"""What a reader of a study has to know before any figure."""

import numpy as np

from uacs.cascade.routing import VERIFY
from uacs.study.cells import Cell
from uacs.study.layout import Study
from uacs.study.view import View


def warnings(study: Study, views: list[View]) -> list[str]:
    """What a reader has to know before any figure."""
    said = []
    unread = len(views[0].label) - len(views[0].known)
    if unread:
        said.append(f"{unread} test samples have no label, or no answer of some seed's UBM, and are scored nowhere.")
    for view in views:
        lost, cell = int(np.sum(~np.isfinite(view.cells[0].test.y_large))), view.cells[0]
        if lost:
            kept = "its own row is of the others, the cascade keeps y_small there"
            said.append(f"{view.name} has no answer to {lost} of {len(view.label)} test samples: {kept}.")
        if study.settings.large[view.name].recorded:
            said.append(f"{view.name}'s answers were recorded elsewhere, to whole clips. {_on_record(cell)}")
            continue
        due = sum(int(np.sum(decision.stage == VERIFY)) for decision in view.decisions())
        given = sum(int(np.sum(decision.answer_from == VERIFY)) for decision in view.decisions())
        if given < due:
            said.append(f"{due - given} of {due} second looks of {view.name} came to no score; y_large stands there.")
    said += _fallbacks(views[0])
    if len(study.settings.seeds) == 1:
        said.append("One seed: intervals are of the samples alone.")
    return said


def _on_record(cell: Cell) -> str:
    if cell.test.y_verify:
        return "Its second looks were told of another UBM's answers; they stand for every seed and estimator alike."
    return "It has no second looks: where one is due, y_large stands."


def _fallbacks(view: View) -> list[str]:
    """Where Eq. 19 says something else than it seems to."""
    doubtful: dict[str, list[int]] = {}
    for cell in view.cells:
        for estimator in cell.estimators:
            (_, small), _ = cell.fits(estimator, view.lambda_, view.beta)
            if small.mu_same is None or small.mu_opposite is None or small.mu_same >= small.mu_opposite:
                doubtful.setdefault(estimator, []).append(cell.seed)
    return [
        f"{estimator}: on the validation split of seed {', '.join(map(str, seeds))} right answers are no surer than "
        "wrong ones, so that λ orders no thresholds there."
        for estimator, seeds in doubtful.items()
    ]
