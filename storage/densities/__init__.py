"""Sets of probability densities in, their layers out."""
