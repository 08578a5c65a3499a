"""Requests made of a demo's test split: transcript and features, as JSON."""

from pathlib import Path

from uacs.data.prepared import PreparedDataset


def of_demo(demo: Path, max_stage: str = "verify") -> list[dict]:
    """One request a test sample."""
    found = []
    for sample in PreparedDataset(demo / "data").samples("test"):
        features = {"audio": sample.audio, "vision": sample.vision}
        told = {name: values.tolist() for name, values in features.items() if values is not None}
        text = {} if sample.text is None else {"text": sample.text}
        found.append({"sample_id": sample.sample_id, "max_stage": max_stage} | text | told)
    return found
