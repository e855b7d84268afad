"""The command line. Click lives only here."""
