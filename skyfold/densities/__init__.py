"""Probability densities of a release."""
