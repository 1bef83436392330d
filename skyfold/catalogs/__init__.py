"""Catalogs of a release: columns, rows, questions."""
