"""Tracing: which of many accounts' keys marked a text, exactly, and with its chance of naming an innocent account bounded.

- :mod:`~wmcheck.watermark.tracing.accounts`: the list of names;
- :mod:`~wmcheck.watermark.tracing.bulk_keys`: the subkeys of a million accounts;
- :mod:`~wmcheck.watermark.tracing.bulk`: their scores on one batch of items;
- :mod:`~wmcheck.watermark.tracing.pools`: those passes on one process or several;
- :mod:`~wmcheck.watermark.tracing.search`: maximum likelihood over accounts, record by record and over all records;
- :mod:`~wmcheck.watermark.tracing.fragments`: an account that wrote a small part of a corpus.
"""
