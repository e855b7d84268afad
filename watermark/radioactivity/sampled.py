"""The closed-model test: text that the suspect wrote, each distinct (effective seed, token) once over all answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.detect import check_ids
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import DISTINCT_TOKENS, Collected, merge_pairs, places_of, window_codes
from wmcheck.watermark.radioactivity.result import Radioactivity
from wmcheck.watermark.radioactivity.weighted import AnyKey, Plan, judge
from wmcheck.watermark.windows import Document, first_occurrences, make_items


def sampled_items(
    answers: Sequence[Document], profile: Profile, *, prompts: Sequence[Document] = (), source: str = ""
) -> Collected:
    """The distinct (window, token) pairs of answers as items of weight 1.

    Windows after which any prompt goes on are left out, in all answers. Given the prompts the answers depend on the suspect
    alone, so that the scores of all other windows are independent draws of the null law even if the prompts are watermarked.
    Repeats within an answer are no reason to drop a token: the suspect, unlike a marking generator, has no rule about them.

    Args:
        answers: token ids in the profile's tokenizer; ``prompt_length`` of them are the prompt.
        profile: whose width and special ids apply.
        prompts: texts beside the answers' own prompts whose windows are left out (system prompts, few-shot examples).
        source: where the suspect came from.

    Raises:
        InputError: a document with ids that are no token ids.
    """
    for document in (*answers, *prompts):
        check_ids(document)
    width, special = profile.scheme.width, np.asarray(profile.special_ids, np.int64)
    items = make_items(answers, width, special, window_rule=False)
    shown = [Document(answer.ids[: answer.prompt_length]) for answer in answers if answer.prompt_length]
    tokens_read = sum(len(answer.ids) - answer.prompt_length for answer in answers)
    kept = np.flatnonzero(items.scored)
    windows, tokens = items.windows[kept], items.tokens[kept]
    if width and (shown or prompts):
        known = make_items([*shown, *prompts], width, special, window_rule=False)
        fresh = ~np.isin(window_codes(windows), window_codes(known.windows))
        windows, tokens = windows[fresh], tokens[fresh]
    codes = window_codes(windows)
    first = first_occurrences(codes)
    owner = places_of(codes, codes[first])
    # Two codes may count as one for first_occurrences, if hardly ever.
    owner, tokens = owner[owner >= 0], tokens[owner >= 0]
    owner, tokens, _ = merge_pairs(owner, tokens, np.ones(len(tokens)))
    return Collected(
        windows=np.ascontiguousarray(windows[first]), owner=owner, tokens=tokens, weights=np.ones(len(tokens)),
        tokens_read=tokens_read, unit=True, rule=DISTINCT_TOKENS, source=source,
    )


def sampled_test(
    answers: Sequence[Document] | Collected, profile: Profile, key: AnyKey, *, prompts: Sequence[Document] = (),
    tenant: str = "", epoch: str = "", source: str = "",
) -> Radioactivity:
    """Test text that the suspect wrote, with the exact law of the sum of scores.

    Args:
        answers: documents, or what :func:`sampled_items` made of them (filtered or not).
        profile, key, tenant, epoch: as for :func:`weighted_test`.
        prompts, source: as for :func:`sampled_items`.

    Raises:
        ConfigError: a contract that judges texts whole.
        InputError: a document with ids that are no token ids.
    """
    held = answers if isinstance(answers, Collected) else sampled_items(answers, profile, prompts=prompts, source=source)
    return judge(Plan(held, profile, "sampled_test"), Candidate.of(profile, key, tenant, epoch), "sampled")
