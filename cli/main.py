"""The entry point: verbs, the default verb ``check``, and the mapping from exceptions to exit codes."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck import __version__
from wmcheck.cli import exits
from wmcheck.cli.runs import ARGV

if TYPE_CHECKING:
    from wmcheck.watermark.core.errors import WmcheckError

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})

# Verb -> (module:command, help line). Modules are imported when their verb runs: --help stays fast and without torch.
VERBS = {
    "attest": ("wmcheck.cli.attest:attest", "Sign a result, or a plan before the data are seen."),
    "audit-prf": ("wmcheck.cli.audit_prf:audit_prf", "Measured weaknesses of the keyed functions of watermarks, ours included."),
    "calibrate": ("wmcheck.cli.calibrate:calibrate", "Observed against nominal error on your own ordinary text."),
    "canary": ("wmcheck.cli.canary:canary", "Plan, test and size keyed behavioural canaries."),
    "check": ("wmcheck.cli.check:check", "Test records for watermarks (the default verb)."),
    "cohort": ("wmcheck.cli.cohort:cohort", "Build and check the models that a suspect is compared against."),
    "compare": ("wmcheck.cli.compare:compare", "Weigh whether a model was trained on another's outputs."),
    "demo": ("wmcheck.cli.demo:demo", "Embed and detect with the bundled model, in one go."),
    "doctor": ("wmcheck.cli.doctor:doctor", "Check the installed engines, a serving file and a running server."),
    "embed": ("wmcheck.cli.embed:embed", "Generate watermarked text with a language model."),
    "key": ("wmcheck.cli.key:key", "Make and inspect secret keys."),
    "power": ("wmcheck.cli.power:power", "Tokens that a watermark needs, before deployment."),
    "probe": ("wmcheck.cli.probe:probe", "Ask a model the probe suites and log every answer."),
    "profile": ("wmcheck.cli.profile:profile", "Make and inspect watermark profiles."),
    "radioactivity": ("wmcheck.cli.radioactivity:radioactivity", "Test whether a model was trained on watermarked text."),
    "reduce": ("wmcheck.cli.reduce:reduce", "Merge the sketches of a corpus into results."),
    "scan": ("wmcheck.cli.scan:scan", "Find the watermarked spans of long texts."),
    "scan-corpus": ("wmcheck.cli.scan_corpus:scan_corpus", "Sketch a corpus that does not fit, file by file."),
    "trace": ("wmcheck.cli.trace:trace", "Name the account whose text leaked, among up to 2^20."),
    "verify": ("wmcheck.cli.verify:verify", "Check a signed result and run its test again."),
}


class Verbs(click.Group):
    """A group that imports a verb on use and takes ``check`` where none is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in VERBS and args[0] not in ("--help", "-h", "--version"):
            _refuse_mistyped_verb(args[0])
            args = ["check", *args]
        ctx.meta[ARGV] = tuple(args)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in sorted(VERBS.items())])


@click.group(
    cls=Verbs, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'wmcheck suspect.jsonl' is 'wmcheck check suspect.jsonl'. Exit codes: 0 completed, 1 detected (--fail-on), "
    "2 nothing can be concluded, 3 insufficient (--fail-on, --strict), 70 bug, 130 interrupted, 141 closed pipe.",
)
@click.version_option(__version__, prog_name="wmcheck")
def group() -> None:
    """Prove where language-model output came from: keyed watermarks, exact tests."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr, level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # JSON is UTF-8 whatever the locale says, and no record id may stop a run.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = run(args)
    _settle(sys.stdout)
    sys.exit(code)


def run(args: list[str]) -> int:
    """The exit code of one command line."""
    try:
        return _run(args)
    except BrokenPipeError:
        return exits.CLOSED_PIPE
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def _run(args: list[str]) -> int:
    from wmcheck.watermark.core.errors import OutputError, WmcheckError

    try:
        refuse_key_arguments(args)
        return _invoke(args)
    except WmcheckError as error:
        return _fail(error)
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return exits.INPUT
        from wmcheck.cli.usage import explain

        return _fail(explain(error, args))
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo("interrupted" + _notes(error), err=True)
        return exits.INTERRUPTED
    except click.exceptions.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS and error.filename is None:
            return _fail(OutputError("cannot write", where="<stdout>", got=error.strerror or ""))
        logging.getLogger("wmcheck").exception("this is a bug in wmcheck; please report it with the lines below")
        return exits.BUG


def _invoke(args: list[str]) -> int:
    if "_WMCHECK_COMPLETE" in os.environ:
        group.main(args, "wmcheck")
    asks_for_help = not {"-h", "--help", "--version"}.isdisjoint(args)
    defaults: dict[str, Any] = {}
    if not asks_for_help:
        from wmcheck.cli.config import load_defaults

        defaults = load_defaults()
    # Not group.main(): it turns a closed pipe into exit code 1, which means "detected" here.
    with group.make_context("wmcheck", list(args), default_map=defaults) as context:
        result = group.invoke(context)
    if sys.stdout is not None:
        sys.stdout.flush()
    return result if isinstance(result, int) else exits.OK


def _fail(error: WmcheckError) -> int:
    click.echo(f"error: {error.message()}{_notes(error)}", err=True)
    return exits.INPUT


def _notes(error: BaseException) -> str:
    """Where partial results were kept; the hint, which is a note too, stands in the message already."""
    notes = getattr(error, "__notes__", [])
    return "".join(f"\n  note: {note}" for note in notes if not note.startswith("hint: "))


def _settle(stream: TextIO | None) -> None:
    """Let the interpreter's own flush at exit succeed, or it would complain about the same pipe or disk again."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno() if stream is not None else 1)


def _refuse_mistyped_verb(word: str) -> None:
    """Say so if ``word``, which is taken for a path, is a verb with a typing error."""
    from difflib import get_close_matches

    plain = word.isidentifier() or word.replace("-", "").isalnum()
    if word.startswith("-") or not plain or os.path.exists(word):
        return
    from wmcheck.watermark.core.errors import ConfigError

    close = get_close_matches(word, VERBS, n=1)
    hint = f"did you mean 'wmcheck {close[0]}'?" if close else f"verbs: {', '.join(sorted(VERBS))}"
    raise ConfigError("neither a verb nor a file", where=word, hint=hint)


def refuse_key_arguments(args: Sequence[str]) -> None:
    """Stop before anything runs if a secret key stands on the command line."""
    literal = "wmk1_" in os.environ.get("WMCHECK_KEY", "")
    if not literal and not any("wmk1_" in arg for arg in args):
        return
    from wmcheck.watermark.core.errors import KeyFileError
    from wmcheck.watermark.key_sources import EXPECTED, leaked_key

    if any("wmk1_" in arg for arg in args):
        raise leaked_key("arguments")
    raise KeyFileError(
        "the variable holds a key, not where to find one", where="WMCHECK_KEY", expected=EXPECTED,
        hint="put the key into another variable, say LAB_KEY, and set WMCHECK_KEY=env:LAB_KEY",
    )


if __name__ == "__main__":
    main()
