"""Suites of probes, one file each."""
