"""Contracts of other people's watermarks, one file each."""
