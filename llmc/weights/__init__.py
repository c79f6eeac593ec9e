"""Weights: how they start, and how narrow ones are stored."""
