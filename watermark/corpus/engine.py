"""DataTrove runs the tasks: locally, on Slurm or on Ray. A task writes one sketch; finished tasks are never run again."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError, MissingExtraError, OutputError
from wmcheck.watermark.core.records import Record
from wmcheck.watermark.corpus.scan import BATCH_RECORDS, Mapper
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.corpus.sketch import Counts, Sketch, Unit
from wmcheck.watermark.corpus.store import LOGS, Scan, disk_error, finished, sketch_path, write_sketch

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError:
    raise MissingExtraError(
        "scanning a corpus needs DataTrove", where="scan-corpus", hint="pip install 'wmcheck[corpus]'"
    ) from None

EXECUTORS = ("local", "slurm", "ray")
RAY_MEMORY_GB = 1.0


class SketchBlock(PipelineStep):  # type: ignore[misc]  # DataTrove has no types
    """A DataTrove block that writes one sketch a task.

    First in a pipeline it reads the units that the folder's ``scan.json`` gives to the task. After a reader or a filter it
    sketches the documents that come by and passes them on.

    Args:
        folder: of the scan; on a cluster, of a shared file system.
        load: makes the candidates in the worker: keys are not pickled, so it must read them from their sources.
        settings: of the scan; None to read them from ``scan.json``.
        tokenizer: where to load the tokenizer from, if not from where the profile says.
        strict: stop at the first record or source that cannot be read.
        quiet: silence DataTrove's own log.
    """

    name = "wmcheck sketch"
    type = "SKETCH"

    def __init__(
        self, folder: str, load: Callable[[], Sequence[Candidate]], settings: Settings | None = None, *,
        tokenizer: str | None = None, strict: bool = False, quiet: bool = False,
    ) -> None:
        super().__init__()
        self.folder, self.load, self.settings = folder, load, settings
        self.tokenizer, self.strict, self.quiet = tokenizer, strict, quiet
        self.place = os.getcwd()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.quiet:
            _log().disable("datatrove")

    def run(self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Sketch one task; ``data`` are DataTrove documents."""
        # Tasks are the parallelism: a tokenizer with threads of its own would only fight them for cores.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        if os.getcwd() != self.place:
            # Workers of a cluster start elsewhere, and names of sources, profiles and keys may be relative.
            os.chdir(self.place)
        folder, settings = Path(self.folder), self.settings
        tasks: tuple[tuple[Unit, ...], ...] = ()
        if settings is None or data is None:
            scan = _planned(folder)
            settings, tasks = settings or scan.settings, scan.tasks
        if data is None and self.settings is None and sketch_path(folder, rank).is_file():
            # Killed after the sketch was whole and before DataTrove took note.
            return
        mapper = Mapper(self.load(), settings, tokenizer=self.tokenizer, strict=self.strict)
        if data is None:
            sketch = mapper.sketch(tasks[rank])
        else:
            sketch = Sketch(settings)
            yield from self._passing(mapper, sketch, data, rank, world_size)
        for unit, counts in sketch.units.values():
            self.stat_update("documents", value=counts.documents, unit=unit.path)
            self.stat_update("tokens", value=counts.tokens, unit=unit.path)
        write_sketch(sketch_path(folder, rank), sketch, mapper.cost, _node())

    def _passing(
        self, mapper: Mapper, sketch: Sketch, data: Iterable[Any], rank: int, world_size: int
    ) -> Iterator[Any]:
        """Documents of a reader before this block; one unit, whose digest is that of their texts."""
        digest, read = hashlib.sha256(), 0
        unit = Unit(f"task {rank} of {world_size}", 0, 0, 0, "", "jsonl", True)
        counts = Counts.zero(mapper.settings)
        first, source = 0, iter(data)
        while batch := list(islice(source, BATCH_RECORDS)):
            records = []
            for number, document in enumerate(batch, first + 1):
                where = str(document.metadata.get("file_path", unit.path))
                records.append(Record(str(document.id), f"{where}:{number}", text=document.text))
                encoded = document.text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
                read += len(encoded)
            mapper.take(sketch, unit, counts, records, first)
            first += len(batch)
            yield from batch
        counts.sha256, counts.lines, counts.read = digest.hexdigest(), first, read
        sketch.add(unit, counts)


def run_tasks(
    block: SketchBlock, tasks: int, executor: str, *, workers: int = 1, options: Mapping[str, str] | None = None
) -> bool:
    """Run the tasks of a scan that have no sketch yet.

    Args:
        block: the pipeline.
        tasks: how many there are.
        executor: ``local``, ``slurm`` or ``ray``.
        workers: tasks at a time.
        options: of the cluster: Slurm's ``partition``, ``time`` and ``sbatch`` arguments; Ray's ``address``, ``memory_gb``.

    Returns:
        True when all tasks are done; False where they were handed to Slurm.

    Raises:
        ConfigError: an unknown executor or option, or no cluster.
        InputError: tasks that did not finish.
        MissingExtraError: Ray is not installed.
        OutputError: the disk is full.
    """
    folder, given = Path(block.folder), dict(options or {})
    logs = folder / LOGS
    _forget_lost(folder, tasks)
    common = {"pipeline": [block], "tasks": tasks, "workers": workers, "logging_dir": str(logs)}
    with _quiet(block.quiet):
        try:
            if executor == "local":
                _run_local(common)
            elif executor == "ray":
                _run_ray(common, given)
            elif executor == "slurm":
                return _run_slurm(common, given)
            else:
                raise ConfigError("unknown executor", where="--executor", got=executor, expected=", ".join(EXECUTORS))
        except OSError as error:
            raise disk_error(str(folder), error) from error
    missing = [task for task, is_done in enumerate(finished(folder, tasks)) if not is_done]
    if missing:
        raise InputError(
            "tasks did not finish", where=str(folder), got=f"{len(missing)} of {tasks}, the first is {missing[0]}",
            hint=f"see {logs}/logs/task_{missing[0]:05}.log; the same command goes on from here",
        )
    return True


def _run_local(common: Mapping[str, Any]) -> None:
    from datatrove.executor.local import LocalPipelineExecutor

    with _dying_with_parent():
        LocalPipelineExecutor(**common).run()


def _run_ray(common: Mapping[str, Any], options: dict[str, str]) -> None:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("Ray is not installed", where="--executor ray", hint="pip install 'wmcheck[ray]'") from None
    from datatrove.executor.ray import RayPipelineExecutor

    address = options.pop("address", os.environ.get("RAY_ADDRESS", "auto"))
    memory = float(options.pop("memory_gb", RAY_MEMORY_GB))
    _refuse_rest(options, "address, memory_gb")
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except ConnectionError:
        hint = "start one: ray start --head; or --cluster address=HOST:PORT"
        raise ConfigError("no Ray cluster", where="--executor ray", got=address, hint=hint) from None
    try:
        RayPipelineExecutor(**common, mem_per_cpu_gb=memory).run()
    finally:
        ray.shutdown()


def _run_slurm(common: Mapping[str, Any], options: dict[str, str]) -> bool:
    import shutil

    from datatrove.executor.slurm import SlurmPipelineExecutor

    if "SLURM_ARRAY_TASK_ID" not in os.environ and shutil.which("sbatch") is None:
        raise ConfigError("no Slurm on this machine", where="--executor slurm", got="no sbatch", hint="run it on a login node")
    needed = {name: options.pop(name, "") for name in ("partition", "time")}
    if not all(needed.values()):
        raise ConfigError(
            "Slurm needs a partition and a time", where="--cluster", expected="--cluster partition=NAME --cluster time=HH:MM:SS"
        )
    plain = {name: options.pop(name) for name in ("qos", "env_command", "venv_path", "condaenv") if name in options}
    executor = SlurmPipelineExecutor(
        **common, **needed, **plain, job_name="wmcheck", sbatch_args=options, mail_type="NONE",
        mem_per_cpu_gb=int(float(options.pop("memory_gb", "2"))),
    )
    executor.run()
    return not executor.get_incomplete_ranks()


def _refuse_rest(options: Mapping[str, str], known: str) -> None:
    if options:
        raise ConfigError("unknown option of the cluster", where="--cluster", got=", ".join(options), expected=known)


def _planned(folder: Path) -> Scan:
    scan = Scan.load(folder)
    if scan is None:
        raise InputError("no plan of a scan", where=str(folder), hint="wmcheck scan-corpus writes it")
    return scan


def _forget_lost(folder: Path, tasks: int) -> None:
    """DataTrove's mark of a task whose sketch is gone must not keep it from running."""
    for task, is_done in enumerate(finished(folder, tasks)):
        mark = folder / LOGS / "completions" / f"{task:05}"
        if not is_done and mark.exists():
            try:
                mark.unlink()
            except OSError as error:
                raise OutputError("cannot write", where=str(mark), got=error.strerror or "") from None


def _node() -> str:
    """Where the task runs: the node's id in a Ray cluster, else the host's name."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return f"ray:{ray.get_runtime_context().get_node_id()}"
    return socket.gethostname()


def _log() -> Any:
    from loguru import logger

    return logger


_watching = False
_registered = False


@contextmanager
def _dying_with_parent() -> Iterator[None]:
    """Processes forked in here end when this one is killed: DataTrove's server of queues would stay forever."""
    global _watching, _registered
    if sys.platform == "linux" and not _registered:
        import ctypes
        import signal

        prctl, set_signal = ctypes.CDLL(None).prctl, 1

        def ask() -> None:
            if _watching:
                prctl(set_signal, signal.SIGTERM, 0, 0, 0)

        os.register_at_fork(after_in_child=ask)
        _registered = True
    _watching = True
    try:
        yield
    finally:
        _watching = False


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    if quiet:
        _log().disable("datatrove")
    try:
        yield
    finally:
        if quiet:
            _log().enable("datatrove")
