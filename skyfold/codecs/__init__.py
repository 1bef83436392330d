"""Zarr v3 codecs; the name of each is the name of its byte format, for ever."""
