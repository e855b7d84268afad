"""llama-cpp-python: a ``Llama`` whose requests name a tenant.

::

    llm = WatermarkedLlama("model.gguf", deployment=Deployment.load(), n_ctx=4096)
    llm.create_chat_completion(messages, temperature=0.8, wmcheck_tenant="acct-17")

Everything goes through :meth:`WatermarkedLlama.generate`, so completions, chats, streams and the token interface are marked
alike. What 0.3.36 does, found by running it, and what is done here about it:

- an exception in a processor is printed and forgotten: it is raised again before the token leaves ``generate``;
- ``logit_bias`` beside ``logits_processor`` drops every processor: the bias is applied here;
- a draft model shows the processor ids that are taken back later: refused;
- penalties, grammars, typical-p and mirostat run after processors: refused for a request that an unbiased scheme marks;
- top-k, top-p and min-p run before the temperature: for such a request they are applied here, and no second time.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wmcheck.watermark.core.errors import ConfigError, MissingExtraError, RequestError, TokenizerError
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.llama_cpp_processor import Processor, Scores, Vocabulary, bias, engine_name
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.policy import PREFIX_OF_FIELDS
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, Step, self_test
from wmcheck.watermark.serving.sessions import Sampling, Session
from wmcheck.watermark.tokenizer import PROBE as TEXT
from wmcheck.watermark.tokenizer import TextTokenizer, load_tokenizer

try:
    import llama_cpp
except ImportError as error:
    raise MissingExtraError("llama-cpp-python is not installed", where=__name__, hint="pip install llama-cpp-python") from error

# Arguments of `generate` that act after processors, with their neutral values: they would undo what an unbiased scheme chose.
LATE = {
    "repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "typical_p": 1.0, "mirostat_mode": 0,
    "grammar": None,
}
UNCUT = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Request(llama_cpp.LogitsProcessorList):  # type: ignore[misc]
    """The processors of a request together with its parameters: chat handlers pass them on."""

    def __init__(self, processors: Iterable[Any], parameters: Mapping[str, Any]) -> None:
        super().__init__(processors)
        self.parameters = parameters


class WatermarkedLlama(llama_cpp.Llama):  # type: ignore[misc]
    """A ``Llama`` that marks what it writes.

    The methods that generate take ``wmcheck_tenant``, ``wmcheck_epoch`` and ``wmcheck_opt_out``
    (:mod:`~wmcheck.watermark.serving.policy`). Only ``sample``, which is given no prompt, marks nothing and is refused.

    Args:
        model_path: the GGUF file.
        *rest: as for ``Llama``.
        deployment: profile, key and policy.
        profile_tokenizer: where the profile's tokenizer is, for a GGUF file that spells a token otherwise: then it is enough that
            both give the same ids for a probe text.
        **options: as for ``Llama``; no ``draft_model``.

    Raises:
        ConfigError: a draft model, a smaller vocabulary, or an engine under which the watermark is lost.
        TokenizerError: another vocabulary, or other ids for a probe text, than those of the profile's tokenizer.
    """

    def __init__(
        self, model_path: str, *rest: Any, deployment: Deployment, profile_tokenizer: str | None = None, **options: Any
    ) -> None:
        self.marker: Marker | None = None
        self._asked: Request | None = None
        super().__init__(model_path, *rest, **options)
        if self.draft_model is not None:
            raise ConfigError("a draft model loses the watermark", where=engine_name(), got="draft_model", expected="none")
        own = TextTokenizer(Vocabulary(self), model_path)
        deployment.check_model(tokenizer=profile_tokenizer or own, vocabulary=self.n_vocab())
        if profile_tokenizer and load_tokenizer(profile_tokenizer).encode([TEXT])[0].tolist() != own.encode([TEXT])[0].tolist():
            raise TokenizerError("the file gives other ids than the profile's tokenizer", where=model_path)
        self_test(deployment, _open_rows, vocabulary=self.n_vocab(), engine=engine_name())
        self._check_engine(deployment)
        self.marker = Marker(deployment, engine_name())
        self.marker.counters.write()

    def create_completion(self, *rest: Any, **options: Any) -> Any:
        """As ``Llama.create_completion``. Raises ``RequestError`` for a request that the policy refuses, streams included."""
        taken = self._take(options)
        self._refuse_late(taken["logits_processor"], options, options.get("temperature", 0.8))
        return super().create_completion(*rest, **taken)

    __call__ = create_completion

    def create_chat_completion(self, *rest: Any, **options: Any) -> Any:
        """As ``Llama.create_chat_completion``; errors as :meth:`create_completion`."""
        taken = self._take(options)
        # Some chat handlers ask for a completion without passing processors on.
        self._asked = taken["logits_processor"]
        try:
            return super().create_chat_completion(*rest, **taken)
        finally:
            self._asked = None

    def generate(self, *rest: Any, **options: Any) -> Generator[int, Any, None]:
        """As ``Llama.generate``; errors as :meth:`create_completion`."""
        bound = inspect.signature(super().generate).bind(*rest, **self._take(options))
        bound.apply_defaults()
        given, marker = bound.arguments, self._marker()
        request = given["logits_processor"]
        prompt = [int(number) for number in given["tokens"]]
        if not given["reset"]:
            prompt = [*self._input_ids.tolist(), *prompt]
        session = Session.open(marker.deployment, request.parameters, prompt, [], sampling_of(given))
        early = self._refuse_late(request, given, given["temp"])
        marker.counters.requests["opted_out" if session.prf is None else "keyed"] += 1
        processor = Processor(marker, session, request, cuts=sampling_of(given, cuts=True) if early else None)
        changed = {**given, **(UNCUT if early else {}), "logits_processor": llama_cpp.LogitsProcessorList([processor])}
        return processor.follow(super().generate(**changed))

    def sample(self, *rest: Any, **options: Any) -> int:
        """The engine's own step of :meth:`generate`; refused outside of it."""
        if self.marker is not None and not any(isinstance(one, Processor) for one in options.get("logits_processor") or ()):
            raise RequestError("sample() marks nothing", where=engine_name(), expected="generate() or a completion")
        return int(super().sample(*rest, **options))

    def _refuse_late(self, request: Request, given: Mapping[str, Any], temperature: float) -> bool:
        """Whether an unbiased scheme marks the request; refuses one that asks for more than goes with that."""
        deployment = self._marker().deployment
        unmarked = temperature == 0.0 or deployment.policy.decide(request.parameters).tenant is None
        if unmarked or not deployment.profile.scheme.unbiased:
            return False
        late = [name for name, neutral in LATE.items() if given.get(name, neutral) != neutral]
        if late:
            raise RequestError(
                "the engine would undo what an unbiased scheme chose", where=", ".join(late), expected="the neutral value",
                hint="a profile of scheme redgreen goes with it",
            )
        return True

    def _marker(self) -> Marker:
        assert self.marker is not None, "not started"
        return self.marker

    def _take(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options with a :class:`Request` as processors, and without the fields and the bias that went into it."""
        left = {name: value for name, value in options.items() if not name.startswith(PREFIX_OF_FIELDS) and name != "logit_bias"}
        fields = {name: value for name, value in options.items() if name.startswith(PREFIX_OF_FIELDS)}
        given, wanted = left.get("logits_processor"), options.get("logit_bias")
        known = given if isinstance(given, Request) else self._asked
        request = Request(given or (), {**(known.parameters if known is not None else {}), **fields})
        if wanted:
            request.append(bias({int(number): float(value) for number, value in wanted.items()}))
        self._marker().deployment.policy.decide(request.parameters)
        return {**left, "logits_processor": request}

    def _check_engine(self, deployment: Deployment) -> None:
        """The engine must ask the processor at every token, and go on with what it leaves."""
        special = deployment.profile.special_ids
        ids, lengths = [number for number in range(self.n_vocab()) if number not in special][:8], []

        def force(seen: NDArray[np.int32], scores: Scores) -> Scores:
            lengths.append(len(seen))
            forced = np.full_like(scores, -1e4)
            forced[ids[len(seen)]] = 0.0
            return forced

        made = list(islice(super().generate(ids[:4], logits_processor=llama_cpp.LogitsProcessorList([force])), 3))
        if made != ids[4:7] or lengths != [4, 5, 6]:
            raise ConfigError("the engine does not sample from the logits that a processor leaves", where=engine_name())
        self.reset()


def sampling_of(given: Mapping[str, Any], *, cuts: bool = False) -> Sampling:
    """The temperature of the arguments of ``generate``, or its cuts; below 0 the engine samples at 1 without cuts."""
    if given["temp"] < 0.0 or not cuts:
        return Sampling(temperature=given["temp"] if given["temp"] >= 0.0 else 1.0)
    return Sampling(top_k=max(given["top_k"], 0), top_p=given["top_p"], min_p=given["min_p"])


def _open_rows(probe: Deployment, prompt: list[int], outputs: list[list[int]]) -> Step:
    marker = Marker(probe, engine_name())
    asked = (PROBE, OPTED_OUT)
    rows = [Processor(marker, Session.open(probe, asked[row], prompt, outputs[row], Sampling()), ()) for row in (0, 1)]

    def step(logits: Tensor) -> Tensor:
        ids = [np.array([*prompt, *output], np.int32) for output in outputs]
        return torch.from_numpy(np.stack([rows[row].mark(ids[row], logits[row].numpy()) for row in (0, 1)]))

    return step
