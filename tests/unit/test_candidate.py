"""Items of a profile: one cut for detection, streams and the contexts of a corpus."""

import numpy as np

from wmcheck.watermark import Candidate, Document, PeerKey, Profile
from wmcheck.watermark.candidate import Batch, items_of
from wmcheck.watermark.templates import corpus_contexts


def test_contexts_of_a_corpus_are_those_that_detection_scores():
    """vLLM's contexts begin with the output and are padded: its first tokens are items too."""
    profile = Profile.create("vllm-gumbel")
    documents = [Document(np.arange(start, start + 30)) for start in (0, 40)]
    batch = Batch(documents, profile)
    kept = batch.select(Candidate(profile, PeerKey(123456789)))
    assert len(kept) == 60
    assert items_of(documents, profile).scored.sum() == 60
    assert len(corpus_contexts(documents, profile).item) == 60
