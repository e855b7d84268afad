"""Evidence bundles: a result, signed, with everything that a stranger needs to check it and to run it again.

An in-toto Statement v1 whose subjects are the inputs, in a DSSE envelope, signed with Ed25519. Formats: docs/evidence.md.
"""
