"""What clips cost: decoding, features, the way to both models, and clips that were made to hurt."""
