"""``wmcheck scan-corpus``: sketches of a corpus that does not fit, task by task."""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.options import key_option, load_candidates, profile_option, tenant_options

if TYPE_CHECKING:
    from wmcheck.watermark.corpus.store import Scan

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# Text that a stored byte of a compressed file holds, for the automatic sample.
PACKED = 4
TICK = 10.0


class Sample(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``auto`` or a whole number."""

    name = "auto|M"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """None for ``auto``."""
        if value is None or value == "auto":
            return None
        text = str(value)
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 2**40:
            self.fail(f"not a sample (got {text!r}, expected auto or a whole number from 1 to 2^40)", param, ctx)
        return int(text)


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, such as ``64MB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        text = str(value).strip().upper()
        unit = next((unit for unit in UNITS if text.endswith(unit)), "")
        number = text.removesuffix(unit).strip()
        if not number.isascii() or not number.isdigit() or not 1 <= int(number) * UNITS.get(unit, 1) <= 10**15:
            self.fail(f"not a size (got {value!r}, expected such as 64MB)", param, ctx)
        return int(number) * UNITS.get(unit, 1)


@click.command("scan-corpus")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@profile_option(multiple=True)
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("--out", required=True, metavar="FOLDER",
              help="Folder of the scan, on a cluster of a shared file system. The same command goes on where it stopped.")
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH",
              help="Tokenizer, if not where the profile says.")
@click.option("--sample", type=Sample(), default="auto", show_default=True,
              help="Of the corpus test, one n-gram in M by a hash without a key; auto aims at 20 million items. "
              "Documents are always tested in full.")
@click.option("--documents", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Read one document in N, by a hash of its text; the others are not encoded, which is most of the work.")
@click.option("--top", type=click.IntRange(min=1), default=100, show_default=True,
              help="Best documents to keep for each key.")
@click.option("--executor", type=click.Choice(["local", "slurm", "ray"]), default="local", show_default=True,
              help="Where DataTrove runs the tasks.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Tasks at a time [default: the processors].")
@click.option("--cluster", multiple=True, metavar="NAME=VALUE",
              help="Of the cluster. Slurm: partition and time, and what sbatch takes; Ray: address, memory_gb.")
@click.option("--task-size", type=Size(), default="64MB", show_default=True, help="Stored bytes of a task.")
@click.option("--field", envvar="WMCHECK_FIELD", help="Text field [default: text, response, completion, last message].")
@click.option("--tokens-field", envvar="WMCHECK_TOKENS_FIELD",
              help="Token id field [default: tokens, token_ids, output_ids].")
@click.option("--input-format", envvar="WMCHECK_INPUT_FORMAT", help="jsonl, json, csv, txt, lines or parquet.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT", help="Stop at the first bad record or unreadable source.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def scan_corpus(paths: tuple[str, ...], **options: Any) -> int:
    """Sketch the documents of PATH... (files, 'quoted globs' or URLs) for 'wmcheck reduce'.

    Killed or out of disk at any point, the same command goes on: finished tasks are not run again, and the result is that of
    an uninterrupted run.
    """
    from wmcheck.watermark.corpus.engine import SketchBlock, run_tasks
    from wmcheck.watermark.corpus.store import LOGS, finished

    folder = Path(options["out"])
    load = partial(load_candidates, options["profile"], options["key"], options["tenant"], options["epoch"])
    scan = _planned(paths, options, load)
    done = finished(folder, len(scan.tasks))
    _announce(scan, done.count(True), options)
    block = SketchBlock(
        str(folder.absolute()), load, tokenizer=options["tokenizer"], strict=options["strict"], quiet=True
    )
    cluster = dict(_pair(text) for text in options["cluster"])
    workers = options["workers"] or os.cpu_count() or 1
    complete = all(done)
    if not complete:
        with _Progress(folder, scan, quiet=options["quiet"]):
            complete = run_tasks(block, len(scan.tasks), options["executor"], workers=workers, options=cluster)
    if not complete:
        click.echo(f"handed to Slurm: {len(scan.tasks)} tasks; logs in {folder / LOGS}; then: wmcheck reduce {folder}")
        return 0
    _summarize(folder)
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--cluster takes NAME=VALUE (got {text!r})")
    return name, value


def _planned(paths: tuple[str, ...], options: dict[str, Any], load: Any) -> Scan:
    """The plan of the folder, new or as it was left.

    Raises:
        ConfigError: the folder holds another scan.
        InputError: no sources, or they changed.
    """
    from wmcheck.watermark.core.errors import ConfigError, InputError
    from wmcheck.watermark.corpus.settings import Settings, automatic_sample
    from wmcheck.watermark.corpus.sources import plan
    from wmcheck.watermark.corpus.store import Scan

    folder = Path(options["out"])
    held = Scan.load(folder)
    candidates = load()
    for candidate in candidates:
        if candidate.committed == "no":
            click.echo(f"warning: {candidate.profile.name}: does not commit to key {candidate.key.id}", err=True)
    tasks = tuple(tuple(task) for task in plan(paths, options["input_format"], options["task_size"]))
    if not tasks:
        raise InputError("no sources", where=", ".join(paths))
    sample = options["sample"]
    if sample is None:
        sample = held.settings.sample if held else automatic_sample(
            _text_bytes(tasks) // options["documents"], len(candidates)
        )
    reading = {name: options[name] for name in ("field", "tokens_field", "input_format")}
    settings = Settings.of(
        candidates, sample=sample, documents=options["documents"], top=options["top"], reading=reading
    )
    scan = Scan(settings, tasks)
    if held is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError("not an empty folder, nor that of a scan", where=f"--out {folder}", hint="choose another name")
        scan.save(folder)
        return scan
    if held.settings.digest != settings.digest:
        raise ConfigError(
            "the folder holds a scan with other profiles, keys or options", where=f"--out {folder}",
            hint="scan into another folder; 'wmcheck reduce' takes several",
        )
    if held.tasks != tasks:
        before, now = ({unit.path: (unit.size, unit.stamp) for task in one for unit in task} for one in (held.tasks, tasks))
        changed = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
        raise ConfigError(
            "the sources changed since the scan began" if changed else "the folder holds a scan with another --task-size",
            where=f"--out {folder}", got=", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else ""),
            hint="scan new files into a folder of their own with the same --sample; 'wmcheck reduce' takes several folders",
        )
    return scan


def _text_bytes(tasks: Any) -> int:
    """Bytes of text, roughly."""
    from wmcheck.watermark.core.formats import COMPRESSIONS

    total, files = 0, {}
    for task in tasks:
        for unit in task:
            files[unit.path] = unit
    for unit in files.values():
        packed = unit.layout == "parquet" or os.path.splitext(unit.path.lower())[1] in COMPRESSIONS
        total += unit.size * (PACKED if packed else 1)
    return total


def _announce(scan: Scan, done: int, options: dict[str, Any]) -> None:
    if options["quiet"]:
        return
    rate = scan.settings.sample
    chosen = " (chosen by size)" if options["sample"] is None else ""
    sampled = "all n-grams" if rate == 1 else f"one n-gram in {rate}"
    share = "" if scan.settings.documents == 1 else f" of one document in {scan.settings.documents}"
    click.echo(f"{len(scan.tasks)} tasks, {done} done; the corpus test reads {sampled}{share}{chosen}", err=True)


class _Progress:
    """Says on stderr now and then how far the tasks are, from the sketches that are there."""

    def __init__(self, folder: Path, scan: Scan, *, quiet: bool) -> None:
        self._folder, self._scan, self._quiet = folder, scan, quiet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if not self._quiet:
            self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if not self._quiet:
            self._thread.join()

    def _watch(self) -> None:
        from wmcheck.watermark.corpus.store import finished

        sizes = [sum(unit.stop - unit.start if not unit.whole else unit.size for unit in task) for task in self._scan.tasks]
        started, before, told = time.monotonic(), None, -1
        while not self._stop.wait(TICK if before is not None else 0.0):
            done = finished(self._folder, len(self._scan.tasks))
            read = sum(size for size, is_done in zip(sizes, done, strict=True) if is_done)
            if before is None:
                before, told = read, done.count(True)
            if done.count(True) == told and not sys.stderr.isatty():
                continue
            told, rate = done.count(True), (read - before) / (time.monotonic() - started)
            left = f", {(sum(sizes) - read) / rate / 60:.0f} min left" if rate else ""
            text = f"{told}/{len(done)} tasks, {read / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s{left}"
            click.echo(f"\r{text}   " if sys.stderr.isatty() else text, err=True, nl=not sys.stderr.isatty())
        if sys.stderr.isatty():
            click.echo(err=True)


def _summarize(folder: Path) -> None:
    """What the sketches hold and what they cost.

    Raises:
        InputError: not one document could be tested.
    """
    from wmcheck.watermark.core.errors import InputError, printable
    from wmcheck.watermark.corpus.reduce import merge_heads

    merged = merge_heads([folder])
    counts = [counts for _, counts in merged.units.values()]
    failures = [one.failure for one in counts if one.failure]
    for failure in failures[:20]:
        click.echo(f"unreadable: {printable(failure)}", err=True)
    documents, skipped = sum(one.documents for one in counts), sum(one.skipped for one in counts)
    if skipped or failures:
        click.echo(
            f"warning: {skipped} records skipped, {len(failures)} sources not read to their end; no result covers them", err=True
        )
    if not documents:
        first = failures[0] if failures else f"{skipped} bad records"
        raise InputError("no document could be tested", where=str(folder), got=first[:160])
    passed = sum(one.passed for one in counts)
    left_out = f" ({passed} left out)" if passed else ""
    read, tokens = sum(one.read for one in counts), sum(one.tokens for one in counts)
    cost = merged.cost
    whole = max(cost.processor, 1e-9)
    click.echo(
        f"{documents} documents{left_out}, {tokens} tokens, {read / 1e6:.0f} MB read; {whole:.0f} CPU-s, "
        f"{read / 1e6 / whole:.2f} MB a CPU-s: tokenizing {cost.encoding / whole:.0%}, "
        f"testing {cost.testing / whole:.0%}, reading {cost.reading / whole:.0%}; "
        f"largest task process {cost.peak / 1e9:.2f} GB", err=True,
    )
    click.echo(f"{len(merged.files)} sketches in {folder}; next: wmcheck reduce {folder}")
