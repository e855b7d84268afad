"""The statistic of a run and where it takes next-token predictions from: a model, or what the records carry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wmcheck.watermark.predict import ModelPredictor

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_STATISTIC = "robust"
# With a model and no statistic named.
MODEL_STATISTIC = "aided"
NOTE_SECONDS = 30.0
_WARP = ("temperature", "top_k", "top_p")


class StatisticName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """The name of a registered statistic; the registry is read only when somebody asks for help or is wrong."""

    name = "statistic"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The registered names."""
        from wmcheck.watermark.core.statistics import STATISTICS

        return f"[{'|'.join(STATISTICS)}]"


def statistic_options(function: F) -> F:
    """``--statistic``, ``--model`` and what belongs to it."""
    options = [
        click.option("--statistic", type=StatisticName(), envvar="WMCHECK_STATISTIC",
                     help=f"Test statistic.  [default: {DEFAULT_STATISTIC}; {MODEL_STATISTIC} with --model]"),
        click.option("--model", envvar="WMCHECK_MODEL", metavar="NAME",
                     help="Predict each token with the model that wrote the text, or one like it: bundled:stories2m, a model "
                          "folder or a hub name."),
        click.option("--temperature", type=click.FloatRange(min=0.0, min_open=True), default=1.0, show_default=True,
                     help="How the text was sampled, if known; for --model."),
        click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="The same; 0 is off."),
        click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), default=1.0, show_default=True, help="The same."),
        click.option("--cache", envvar="WMCHECK_CACHE", metavar="DIR",
                     help="Where predictions are kept [default: ~/.cache/wmcheck/predictions]."),
        click.option("--no-cache", is_flag=True, help="Keep no predictions."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def choose_statistic(ctx: click.Context, options: Mapping[str, Any]) -> str:
    """The statistic of the run: the one that was named, else the default with or without a model.

    Raises:
        ConfigError: an unknown name, or options on the command line that contradict one another.
    """
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.core.statistics import STATISTICS

    name = str(options["statistic"] or (MODEL_STATISTIC if options["model"] else DEFAULT_STATISTIC))
    if name not in STATISTICS:
        raise ConfigError("unknown statistic", where="--statistic", got=name, expected=", ".join(STATISTICS))
    given = [one for one in ("model", *_WARP) if ctx.get_parameter_source(one) is click.core.ParameterSource.COMMANDLINE]
    if "model" in given and not STATISTICS[name].needs_model:
        readers = ", ".join(one for one in STATISTICS if STATISTICS[one].needs_model)
        raise ConfigError("the statistic reads no predictions", where="--model", got=f"--statistic {name}", expected=readers)
    if given and not options["model"]:
        flag = given[0].replace("_", "-")
        raise ConfigError("no model to apply it to", where=f"--{flag}", hint="it says how the text was sampled, for --model")
    return name


@contextmanager
def open_predictor(
    options: Mapping[str, Any], statistic: str, progress: Callable[[int], None]
) -> Iterator[ModelPredictor | None]:
    """The model that predicts for ``statistic``, loaded; None if it reads no predictions, or those of the records.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    from wmcheck.watermark.core.statistics import STATISTICS

    if not options["model"] or not STATISTICS[statistic].needs_model:
        yield None
        return
    from wmcheck.cli.embed import calm_torch
    from wmcheck.watermark.predict import Warp, load_predictor
    from wmcheck.watermark.prediction_cache import PredictionCache, default_cache

    cache = None if options["no_cache"] else PredictionCache(options["cache"] or default_cache())
    warp = Warp(options["temperature"], options["top_k"], options["top_p"])
    with calm_torch(options["model"]):
        yield load_predictor(options["model"], warp=warp, cache=cache, progress=progress)


class Notes:
    """How far predictions have come: in the label of a bar, or from time to time as a line on stderr.

    Args:
        quiet: say nothing.

    Attributes:
        bar: the progress bar of the run, while there is one.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._started = self._said = time.monotonic()
        self._tokens = 0
        self.bar: Any = None

    def __call__(self, tokens: int) -> None:
        """Count tokens that were predicted."""
        now = time.monotonic()
        self._tokens += tokens
        rate = self._tokens / max(now - self._started, 1e-3)
        if self.bar is not None:
            self.bar.label = f"checking, {self._tokens:,} tokens predicted"
            self.bar.render_progress()
        elif not self._quiet and now - self._said > NOTE_SECONDS:
            self._said = now
            click.echo(f"predicted {self._tokens:,} tokens, {rate:,.0f} a second", err=True)
