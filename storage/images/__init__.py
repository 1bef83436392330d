"""Survey images in, their layers out."""
