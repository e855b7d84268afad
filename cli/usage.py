"""What click complains about, in the form of every other error: where, what, next step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches

import click

from wmcheck.watermark.core.errors import ConfigError


def explain(error: click.UsageError, args: Sequence[str]) -> ConfigError:
    """The error to show for a usage error of click.

    Args:
        error: what click raised.
        args: the command line, to tell a bad flag from a bad variable or configuration file.
    """
    command = error.ctx.command_path if error.ctx else "wmcheck"
    see = f"see '{command} --help'"
    if isinstance(error, click.NoSuchOption):
        known = ["--help", "--version"]
        if error.ctx:
            known += [name for param in error.ctx.command.params for name in (*param.opts, *param.secondary_opts)]
        close = get_close_matches(error.option_name, known, n=2)
        hint = f"did you mean {' or '.join(close)}? {see}" if close else see
        return ConfigError("no such option", where=error.option_name, hint=hint)
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        return ConfigError(_sentence(error.message), where=_origin(error, args, command), hint=see)
    return ConfigError(_sentence(error.format_message()), where=command, hint=see)


def _sentence(text: str) -> str:
    text = text.strip().removesuffix(".")
    return text[:1].lower() + text[1:]


def _origin(error: click.BadParameter, args: Sequence[str], command: str) -> str:
    """Where a bad value came from: the flag if it was given, else the variable, else the configuration file."""
    param = error.param
    if param is None:
        return error.param_hint if isinstance(error.param_hint, str) else command
    if isinstance(param, click.Argument):
        return param.metavar or param.human_readable_name
    shorts = [name for name in param.opts if not name.startswith("--")]
    for arg in args:
        if arg.split("=", 1)[0] in param.opts or any(arg.startswith(short) and arg[1] != "-" for short in shorts):
            return max(param.opts, key=len)
    if isinstance(param.envvar, str) and os.environ.get(param.envvar):
        return param.envvar
    return f"{max(param.opts, key=len)} in the configuration file"
