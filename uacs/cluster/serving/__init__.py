"""Deployments on Ray Serve."""
