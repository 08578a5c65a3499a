"""U-ACS: a small multimodal sentiment model answers, a large one is asked only where the small one doubts."""

__version__ = "0.1.0"
