"""The entry point: verbs, the default verb ``check``, and the mapping from exceptions to exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from wmcheck import __version__
from wmcheck.cli import exits

# Verb -> (module:command, help line). Modules are imported when their verb runs: --help stays fast and without torch.
VERBS = {
    "check": ("wmcheck.cli.check:check", "Test records for watermarks (the default verb)."),
    "demo": ("wmcheck.cli.demo:demo", "Embed and detect with the bundled model, in one go."),
    "embed": ("wmcheck.cli.embed:embed", "Generate watermarked text with a language model."),
    "key": ("wmcheck.cli.key:key", "Make and inspect secret keys."),
    "profile": ("wmcheck.cli.profile:profile", "Make and inspect watermark profiles."),
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
            args = ["check", *args]
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
    sys.exit(run(args))


def run(args: list[str]) -> int:
    """The exit code of one command line."""
    from wmcheck.watermark.core.errors import WmcheckError

    try:
        refuse_key_arguments(args)
        from wmcheck.cli.config import load_defaults

        result: Any = group.main(args, "wmcheck", standalone_mode=False, default_map=load_defaults())
        sys.stdout.flush()
        return result if isinstance(result, int) else exits.OK
    except WmcheckError as error:
        click.echo(f"error: {error.message()}", err=True)
        return exits.INPUT
    except click.ClickException as error:
        error.show()
        return exits.INPUT
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout at exit and would complain about the same pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.CLOSED_PIPE
    except click.exceptions.Exit as error:
        return error.exit_code
    except Exception:
        logging.getLogger("wmcheck").exception("this is a bug in wmcheck; please report it with the lines below")
        return exits.BUG


def refuse_key_arguments(args: Sequence[str]) -> None:
    """Stop before anything runs if a secret key stands on the command line."""
    from wmcheck.watermark.core.errors import KeyFileError

    if any("wmk1_" in arg for arg in args):
        raise KeyFileError(
            "a key was given on the command line, where every user of the machine can read it", where="arguments",
            expected="file:PATH, env:NAME or keyring:SERVICE/NAME",
            hint="treat that key as leaked: make a new one with 'wmcheck key new -o lab.wmk'",
        )


if __name__ == "__main__":
    main()
