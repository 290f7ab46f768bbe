"""Gradients forward in time."""
