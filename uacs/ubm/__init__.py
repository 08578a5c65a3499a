"""The small model (UBM): encoders, fusion, two heads on one representation, and its uncertainty."""
