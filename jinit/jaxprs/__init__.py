"""Traced programs: what they compute from what, and walking them. Knows nothing of neural networks."""
