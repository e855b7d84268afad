"""wmcheck: prove where language-model output, and the models trained on it, came from.

The packages: ``wmcheck.watermark`` (keyed embedding and exact detection), ``wmcheck.fingerprint`` (behavioural provenance)
and ``wmcheck.cli`` (the command line).
"""

__version__ = "0.1.0"
