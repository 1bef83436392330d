"""Images of a release: found, windowed, decoded."""
