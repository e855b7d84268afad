"""Endpoints: what answers probes. The only place in ``wmcheck.fingerprint`` that talks to a network."""
