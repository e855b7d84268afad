"""Records, readers, results, nulls and multiplicity: standard library, numpy and scipy only."""
