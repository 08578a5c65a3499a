"""The published figures of U-ACS (arXiv 2509.04459) and of the methods that it compares with, as constants.

Fractions in percent as printed; run time in seconds, of the whole test split (the paper
says "per sample", which its own figures contradict).
"""

METRICS = {"mosi": ("acc7", "acc2", "f1", "mae", "corr"), "sims": ("acc3", "acc2", "f1", "mae", "corr")}
"""The columns of Tables II and III, by whose rules hold."""

Row = dict[str, float | None]


def _row(names: tuple[str, ...], *values: float | None) -> Row:
    return dict(zip(names, values, strict=True))


def _of(dataset: str, rows: dict[str, tuple]) -> dict[str, Row]:
    names = METRICS["sims" if dataset == "sims" else "mosi"]
    return {method: _row(names, *values) for method, values in rows.items()}


COMPARED = {
    "mosi": _of(
        "mosi",
        {
            "MISA": (42.3, 83.4, 83.6, 0.783, 0.761),
            "LMF": (33.8, 79.2, 79.2, 0.950, 0.651),
            "MulT": (36.9, 79.7, 79.6, 0.879, 0.702),
            "MAG-BERT": (43.6, 84.4, 84.6, 0.727, 0.781),
            "Self-MM": (45.8, 84.9, 84.8, 0.731, 0.785),
            "ConFEDE": (42.3, 85.5, 85.5, 0.742, 0.784),
            "DLF": (47.1, 85.1, 85.0, 0.731, 0.781),
        },
    ),
    "mosei": _of(
        "mosei",
        {
            "MISA": (52.2, 85.5, 85.3, 0.555, 0.756),
            "LMF": (51.6, 83.5, 83.4, 0.575, 0.716),
            "MulT": (52.8, 84.6, 84.5, 0.559, 0.733),
            "MAG-BERT": (52.7, 84.8, 84.7, 0.543, 0.755),
            "Self-MM": (53.0, 85.2, 85.2, 0.540, 0.763),
            "ConFEDE": (54.9, 85.8, 85.8, 0.522, 0.780),
            "DLF": (53.9, 85.4, 85.3, 0.536, 0.764),
        },
    ),
    "sims": _of(
        "sims",
        {
            "MISA": (None, 76.5, 76.6, 0.447, 0.563),
            "TFN": (65.1, 78.4, 78.6, 0.432, 0.591),
            "MulT": (64.8, 78.6, 79.7, 0.453, 0.564),
            "MAG-BERT": (None, 74.4, 71.8, 0.492, 0.399),
            "DEVA": (65.4, 79.6, 80.3, 0.424, 0.583),
            "KuDA": (66.5, 80.7, 80.7, 0.408, 0.613),
        },
    ),
}
"""Tables II and III: other methods, as the paper cites them."""

OWN: dict[str, dict[str, Row]] = {
    "mosi": {
        "UBM": {"acc2": 86.1, "mae": 0.716, "seconds": 15.35},
        "HumanOmni": _row(METRICS["mosi"], 52.8, 91.3, 91.3, 0.549, 0.881) | {"seconds": 379.18},
        "U-ACS with HumanOmni": _row(METRICS["mosi"], 51.2, 91.8, 91.8, 0.585, 0.868) | {"seconds": 125.76},
        "VideoLLaMA2": _row(METRICS["mosi"], 49.8, 88.3, 88.3, 0.575, 0.875) | {"seconds": 1046.23},
        "U-ACS with VideoLLaMA2": _row(METRICS["mosi"], 48.9, 90.5, 90.5, 0.625, 0.847) | {"seconds": 520.41},
    },
    "mosei": {
        "UBM": {"acc2": 86.3, "mae": 0.527, "seconds": 35.02},
        "HumanOmni": _row(METRICS["mosi"], 58.6, 86.1, 85.4, 0.483, 0.807) | {"seconds": 9815.56},
        "U-ACS with HumanOmni": _row(METRICS["mosi"], 55.4, 86.4, 85.8, 0.506, 0.784) | {"seconds": 5561.18},
    },
    "sims": {
        "UBM": {"acc2": 80.5, "mae": 0.409, "seconds": 18.76},
        "HumanOmni": _row(METRICS["sims"], 72.9, 85.1, 85.0, 0.327, 0.749) | {"seconds": 470.61},
        "U-ACS with HumanOmni": _row(METRICS["sims"], 73.1, 85.8, 85.1, 0.354, 0.691) | {"seconds": 260.58},
        "VideoLLaMA2": _row(METRICS["sims"], 74.0, 81.0, 81.7, 0.400, 0.718) | {"seconds": 1351.04},
        "U-ACS with VideoLLaMA2": _row(METRICS["sims"], 74.4, 85.6, 85.6, 0.392, 0.685) | {"seconds": 710.71},
    },
}
"""Tables II to VI: the paper's own systems."""

ABLATIONS: dict[str, dict[str, Row]] = {
    "mosi": {
        "without cross-verification": {"acc7": 50.4, "acc2": 90.4, "mae": 0.631},
        "random": {"acc7": 51.7, "acc2": 89.6, "mae": 0.600},
        "ptd": {"acc7": 46.7, "acc2": 87.0, "mae": 0.649},
        "ev": {"acc7": 46.9, "acc2": 88.7, "mae": 0.632},
        "cbe": {"acc7": 51.2, "acc2": 91.8, "mae": 0.585},
    },
    "sims": {
        "without cross-verification": {"acc3": 72.9, "acc2": 85.1, "mae": 0.358},
        "random": {"acc3": 70.7, "acc2": 83.6, "mae": 0.357},
        "ptd": {"acc3": 70.2, "acc2": 81.2, "mae": 0.407},
        "ev": {"acc3": 64.6, "acc2": 78.1, "mae": 0.398},
        "cbe": {"acc3": 73.1, "acc2": 85.8, "mae": 0.354},
    },
    "mosei": {
        "ptd": {"acc7": 54.4, "acc2": 84.7, "mae": 0.520},
        "ev": {"acc7": 55.2, "acc2": 86.4, "mae": 0.516},
        "cbe": {"acc7": 55.4, "acc2": 86.4, "mae": 0.506},
    },
}
"""Tables VII and VIII, as the paper has them: at each estimator's own share."""

VOLUME = {"mosi": (686, 447, 239), "mosei": (4659, 1984, 2675), "sims": (457, 278, 179)}
"""Table IX: test samples, those that the small model settled, those that HumanOmni was asked about."""

MODELS = ("HumanOmni", "VideoLLaMA2")


def known_as(model: str) -> str:
    """A large model's name as the paper has it; its own where the paper does not know it.

    >>> known_as("HumanOmni-7B"), known_as("mine")
    ('HumanOmni', 'mine')
    """
    return next((name for name in MODELS if model.lower().startswith(name.lower())), model)
