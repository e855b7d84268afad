"""SGLang: a custom logit processor, and the plug-in without which it would read histories that are one token late.

Start SGLang with ``--enable-custom-logit-processor`` and ``WMCHECK_SERVING``; requests name a tenant in ``custom_params`` (see
:mod:`wmcheck.watermark.serving.policy`). The entry point :func:`register` gives every request the processor, whether it asks
for it or not, and refuses those that the deployment does not serve. Under SGLang's overlap scheduler the ids of a request
lack the newest one, so a hook hands the processor the ids that the model has just read; without that hand-over it raises.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wmcheck.watermark.core.errors import ConfigError, MissingExtraError
from wmcheck.watermark.serving.counters import announce
from wmcheck.watermark.serving.deployment import VARIABLE
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.sessions import ContextError, Sampling, Session

try:
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
except ImportError as error:
    raise MissingExtraError("SGLang is not installed", where=__name__, hint="pip install sglang") from error

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("wmcheck")

# The place of a request's row among the parameters that the processor gets: private to the request, and gone with it.
ROW, REQUEST = "__wmcheck__", "__req__"
EVERY_TOKEN = 1 << 30
# Settings under which tokens come from elsewhere than the processor's logits, and what they must be.
REFUSED = (
    ("enable_custom_logit_processor", (True,), "start with --enable-custom-logit-processor"),
    ("speculative_algorithm", (None,), "SGLang's drafts are not watermarked by this adapter"),
    ("enable_watermark", (False, None), "two watermarks in one text"),
    ("dllm_algorithm", (None,), "a diffusion model does not write from left to right"),
    ("disaggregation_mode", ("null", None), "the first token comes from another server"),
)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Row:
    """One request in the scheduler; ``read`` is what the model has just read of it: last id, length, whether in a prefill."""

    marker: Marker
    session: Session | None = None
    read: tuple[int, int, bool] | None = None


class WatermarkLogitProcessor(CustomLogitProcessor):  # type: ignore[misc]
    """The processor that SGLang calls after penalties and grammar, before temperature and top-p; it holds nothing."""

    def __call__(self, logits: Tensor, custom_param_list: Sequence[dict[str, Any]] | None = None) -> Tensor:
        """Mark the rows of a step in place.

        Raises:
            ContextError: the plug-in did not say what the model has read, or it does not fit the ids of the request.
        """
        held: list[tuple[int, Row, Session]] = []
        for place, given in enumerate(custom_param_list or ()):
            row = given.get(ROW) if isinstance(given, dict) else None
            if not isinstance(row, Row) or row.read is None:
                raise lost("nothing", "what the plug-in hands over", "is wmcheck's entry point sglang.srt.plugins loaded?")
            session = follow(row, given, logits.shape[1])
            if session is not None:
                held.append((place, row, session))
        if held:
            held[0][1].marker.mark(logits, [session for _, _, session in held], [place for place, _, _ in held])
        return logits


def follow(row: Row, given: dict[str, Any], width: int) -> Session | None:
    """The request's session at the position that is sampled now; None where the token will be thrown away.

    SGLang's own ids have the last one already or lack it; ids that fit neither are refused, never guessed at.

    Args:
        row: the request's row; what it read is used up.
        given: the request's parameters.
        width: of the logits.
    """
    assert row.read is not None
    (last, length, prefill), row.read, request = row.read, None, given[REQUEST]
    try:
        if request.finished():
            return None
    except ReferenceError:
        return None
    prompt, known = request.origin_input_ids, request.output_ids
    if prefill and length < len(prompt) + len(known):
        # A part of a long prompt: the token after it is known.
        return None
    count = length - len(prompt)
    if count < 0 or len(known) not in (count, count - 1):
        raise lost(f"{length} ids", f"{len(prompt)} of the prompt and {len(known)} of the output, or one more")
    newest = known[count - 1] if len(known) == count > 0 else prompt[-1] if count == 0 else last
    # Placeholders of images lie outside the vocabulary, and the model reads another id in their place.
    if newest != last and 0 <= newest < width:
        raise lost(f"last id {last}", str(newest))
    if row.session is None or row.session.prompt is not prompt:
        row.session = Session.open(row.marker.deployment, given, prompt, [], sampling_of(request.sampling_params))
        row.marker.counters.requests["opted_out" if row.session.prf is None else "keyed"] += 1
        weakref.finalize(row, row.marker.close, row.session).atexit = False
    own = row.session.output
    assert isinstance(own, list)
    if len(own) != count - 1 or (own and own[-1] != known[count - 2]):
        # The first step, or one after SGLang took the request back and resumed it.
        own[:] = known[: max(count - 1, 0)]
    if count:
        own.append(last)
    return row.session


def lost(got: str, expected: str, hint: str = "an SGLang version unknown to this adapter? docs/serving.md") -> ContextError:
    """The error of a history that cannot be marked."""
    return ContextError(
        "SGLang's ids of a request are not those that the model read", where="sglang", got=got, expected=expected, hint=hint
    )


def sampling_of(params: Any) -> Sampling:
    """The sampling settings of SGLang's ``SamplingParams``, where greedy decoding is top-k 1."""
    greedy = params.top_k <= 1
    return Sampling(
        temperature=0.0 if greedy else params.temperature, top_k=0 if greedy or params.top_k >= EVERY_TOKEN else params.top_k,
        top_p=params.top_p, min_p=params.min_p, seed=params.sampling_seed,
    )


def refuse(server_args: Any) -> None:
    """Refuse settings under which the watermark would be lost or doubled; raises ``ConfigError``."""
    for name, allowed, hint in REFUSED:
        found = getattr(server_args, name, None)
        if found not in allowed:
            raise ConfigError("SGLang cannot watermark so", where=name, got=repr(found), expected=repr(allowed[0]), hint=hint)


def engine_name() -> str:
    """``"sglang VERSION"``."""
    import sglang

    return f"sglang {sglang.__version__}"


def register() -> None:
    """The entry point ``sglang.srt.plugins``: SGLang calls it in every process, before anything starts."""
    if not os.environ.get(VARIABLE):
        log.warning("wmcheck is installed and %s is not set: nothing is marked", VARIABLE)
        return
    from wmcheck.watermark.serving.sglang_plugin import Plugin

    announce()
    Plugin().hook()
