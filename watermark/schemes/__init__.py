"""The watermark schemes, one file each, found by name in :mod:`wmcheck.watermark.scheme`."""
