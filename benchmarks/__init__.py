"""Measurements of what the mesh exists for, as ratios taken side by side in one run."""
