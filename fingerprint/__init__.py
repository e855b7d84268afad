"""Behavioural fingerprints: compare a suspect model with a named teacher against a cohort."""
