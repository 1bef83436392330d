"""Survey catalogs in, their layers out."""
