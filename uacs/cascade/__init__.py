"""The paper as arrays: uncertainty, thresholds, routing and replay. No model, no cluster."""
