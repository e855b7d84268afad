"""A corpus that does not fit, on one machine: text, sketches, reduction; and the same on a Ray cluster, and after a kill.

    export OMP_NUM_THREADS=1
    python benchmarks/corpus.py make --megabytes 10000 --out /scratch/corpus
    python benchmarks/corpus.py scan /scratch/corpus --work /scratch/work --workers 2
    python benchmarks/corpus.py resume /scratch/corpus-small --work /scratch/resume
    python benchmarks/corpus.py ray /scratch/corpus-small --work /scratch/ray

``make`` writes JSON lines, the same bytes every time for the same installed Python: 90% of the documents are sentences of the
standard library's documentation in random order, 9% random walks over the tokens of that documentation (new n-grams, as most
text has them), 1% such walks under a planted key (Gumbel-max, h = 4). The walks are drawn as ids and stored as text, so the
detector re-encodes them like any other text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pydoc_data.topics
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.corpus.reduce import merge_heads
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.schemes.gumbel import Gumbel
from wmcheck.watermark.tokenizer import TextTokenizer, load_tokenizer
from wmcheck.watermark.windows import fresh_rows

SEED = 20
FILE_MEGABYTES = 250
ROWS, LENGTH, FOLLOWERS = 2048, 300, 32
WALKS, MARKED = 0.10, 0.01
WIDTH = 4
SENTENCES = 22


def sentences() -> list[str]:
    """Sentences of the standard library's documentation, in the order of file names."""
    texts = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            texts += re.findall(r'"""(.*?)"""', path.read_text("utf-8", "replace"), re.DOTALL)
    found = [" ".join(part.split()) for text in texts for part in re.split(r"(?<=[.!?:])\s+|\n\s*\n", text)]
    return sorted({part for part in found if 20 <= len(part) <= 400 and part.isascii()})


class Walk:
    """Random walks over token ids by how often one token follows another."""

    def __init__(self, pool: list[str], tokenizer: TextTokenizer) -> None:
        size = tokenizer.vocabulary
        counts = np.zeros((size, size))
        for ids in tokenizer.encode(pool):
            np.add.at(counts, (ids[:-1], ids[1:]), 1.0)
        names = [tokenizer._backend.id_to_token(i).replace("\u0120", " ").replace("\u010a", "\n") for i in range(size)]
        self.names = np.array(names, object)
        plain = np.array([name.isascii() and name.isprintable() and len(name) > 0 for name in names])
        counts[:, ~plain] = 0.0
        counts[counts < 3] = 0.0
        followers = np.argsort(-counts, axis=1, kind="stable")[:, :FOLLOWERS]
        weights = np.take_along_axis(counts, followers, 1)
        starts = np.flatnonzero((weights[:, 1] > 0) & plain)
        # A walk that reaches a token without followers goes on at a common one.
        dead = weights[:, 0] == 0
        followers[dead], weights[dead] = followers[starts[0]], weights[starts[0]]
        # Square roots: more entropy a token, as in the text of larger models.
        shares = np.sqrt(weights)
        shares /= shares.sum(1, keepdims=True)
        with np.errstate(divide="ignore"):
            self.log_shares = np.log(shares)
        self.cumulative = np.minimum(np.cumsum(shares, 1), 1.0)
        self.followers, self.starts = followers, starts

    def plain(self, rows: int, rng: np.random.Generator) -> list[str]:
        """Texts of walks that know no key."""
        ids = np.empty((rows, LENGTH), np.int64)
        ids[:, 0] = rng.choice(self.starts, rows)
        for place in range(1, LENGTH):
            ids[:, place] = self._drawn(ids[:, place - 1], rng)
        return self._texts(ids)

    def marked(self, rows: int, rng: np.random.Generator, key: PrfKey) -> list[str]:
        """Texts of walks whose tokens the keyed noise chooses, by the rules of the scheme."""
        ids = np.empty((rows, LENGTH), np.int64)
        ids[:, 0] = rng.choice(self.starts, rows)
        for place in range(1, WIDTH):
            ids[:, place] = self._drawn(ids[:, place - 1], rng)
        none = np.zeros(0, np.int64)
        for place in range(WIDTH, LENGTH):
            last = ids[:, place - 1]
            tokens = self.followers[last]
            digests = key.digests(ids[:, place - WIDTH : place].astype(np.uint32))
            words = key.lanes32(np.repeat(digests, FOLLOWERS, 0), tokens.reshape(-1)).reshape(tokens.shape)
            noise = -np.log(-np.log((words + 0.5) * 2.0**-32))
            chosen = np.take_along_axis(tokens, (self.log_shares[last] + noise).argmax(1)[:, None], 1)[:, 0]
            fresh = fresh_rows(ids[:, :place], WIDTH, none, window_rule=True)
            ids[:, place] = np.where(fresh, chosen, self._drawn(last, rng))
        return self._texts(ids)

    def _drawn(self, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        which = (self.cumulative[last] < rng.random(len(last))[:, None]).sum(1)
        return self.followers[last, np.minimum(which, FOLLOWERS - 1)]

    def _texts(self, ids: np.ndarray) -> list[str]:
        return ["".join(row) for row in self.names[ids]]


def planted(name: str) -> SecretKey:
    return SecretKey(hashlib.sha256(f"wmcheck benchmarks/corpus.py: {name}".encode()).digest())


def documents() -> Iterator[str]:
    """JSON lines without end."""
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    pool = sentences()
    walk, rng = Walk(pool, tokenizer), np.random.default_rng(SEED)
    key = PrfKey.derive(planted("planted").tenant(), Gumbel(width=WIDTH).label())
    rows = np.array([*map(_escaped, pool)], object)
    number, per_round = 0, round(ROWS / MARKED)
    plain_walks = round(per_round * (WALKS - MARKED) / ROWS)
    while True:
        marked = walk.marked(ROWS, rng, key)
        walks = [text for _ in range(plain_walks) for text in walk.plain(ROWS, rng)]
        queues = {kind: map(_escaped, texts) for kind, texts in (("marked", marked), ("walk", walks))}
        draws = rng.permutation(per_round)
        for start in range(0, per_round, ROWS):
            mixed = rows[rng.integers(0, len(rows), (min(ROWS, per_round - start), SENTENCES))]
            for place, parts in zip(draws[start : start + ROWS], mixed, strict=True):
                kind = "marked" if place < ROWS else "walk" if place < ROWS * (1 + plain_walks) else "mixed"
                text = " ".join(parts) if kind == "mixed" else next(queues[kind])
                number += 1
                yield f'{{"id": "{kind}-{number}", "text": "{text}"}}\n'


def _escaped(text: str) -> str:
    """As it stands between the quotes of JSON."""
    return json.dumps(text)[1:-1]


def make(out: Path, megabytes: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    stream, written = documents(), 0
    started = time.monotonic()
    for number in range(-(-megabytes // FILE_MEGABYTES)):
        target = out / f"part-{number:03}.jsonl"
        limit = min(FILE_MEGABYTES, megabytes - number * FILE_MEGABYTES) * 1_000_000
        size = 0
        with open(f"{target}.tmp", "w", encoding="utf-8") as file:
            while size < limit:
                line = next(stream)
                size += file.write(line)
        os.replace(f"{target}.tmp", target)
        written += size
        print(f"{target}: {size / 1e6:.0f} MB, {written / 1e6 / (time.monotonic() - started):.1f} MB/s", flush=True)
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    Profile.create("gumbel", {"width": WIDTH}, tokenizer=tokenizer).save(out / "lab.profile.json")
    for name in ("planted", "wrong"):
        (out / f"{name}.wmk").unlink(missing_ok=True)
        write_key_file(planted(name), str(out / f"{name}.wmk"))


def scan(corpus: Path, folder: Path, *options: str) -> list[str]:
    """The command line of a scan under the planted and the wrong key."""
    keys = [word for name in ("planted", "wrong") for word in ("--key", f"file:{corpus}/{name}.wmk")]
    files = map(str, sorted(corpus.glob("*.jsonl")))
    profile = str(corpus / "lab.profile.json")
    return [sys.executable, "-m", "wmcheck.cli.main", "scan-corpus", *files, "-p", profile, *keys, "--out", str(folder), *options]


def reduced(folder: Path) -> tuple[dict[str, Any], float, float, float]:
    """The JSON result of a folder, and of the process that made it: wall seconds, processor seconds, peak bytes."""
    result = folder.parent / f"{folder.name}.result.json"
    code = (
        "import json, resource, sys; from wmcheck.cli.main import run; code = run(sys.argv[1:]); "
        "use = resource.getrusage(resource.RUSAGE_SELF); "
        "print(json.dumps([use.ru_utime + use.ru_stime, use.ru_maxrss * 1024]), file=sys.stderr); sys.exit(code)"
    )
    started = time.monotonic()
    command = [sys.executable, "-c", code, "reduce", str(folder), "--json", "-o", str(result)]
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    wall = time.monotonic() - started
    cpu, peak = json.loads(done.stderr.splitlines()[-1])
    return json.loads(result.read_text("utf-8")), wall, cpu, peak


def report(folder: Path) -> list[str]:
    """What a scan cost and found."""
    merged = merge_heads([folder])
    counts = [counts for _, counts in merged.units.values()]
    cost = merged.cost
    read, tokens = sum(one.read for one in counts), sum(one.tokens for one in counts)
    whole = cost.processor
    wall = max(os.path.getmtime(path) for path in merged.files) - os.path.getmtime(folder / "scan.json")
    result, reduce_wall, reduce_cpu, reduce_peak = reduced(folder)
    kept = sum(one["sampled"]["kept"] for one in result["corpus"][:1])
    lines = [
        "| what | measured |", "|---|---|",
        f"| text | {read / 1e9:.2f} GB, {result['counts']['documents']:,} documents, {tokens:,} tokens |",
        f"| tasks | {len(merged.files)} of {len(merged.files) + merged.missing} |",
        f"| scan, wall | {wall:,.0f} s, {read / 1e6 / wall:.2f} MB/s |",
        f"| scan, processor | {whole:,.0f} CPU-s, {read / 1e6 / whole:.2f} MB a CPU-s |",
        f"| of that tokenizing | {cost.encoding / whole:.0%} |", f"| testing | {cost.testing / whole:.0%} |",
        f"| reading | {cost.reading / whole:.0%} |",
        f"| peak memory of a worker | {cost.peak / 1e9:.2f} GB |",
        f"| sketches | {sum(os.path.getsize(path) for path in merged.files) / 1e6:.0f} MB, {kept:,} codes |",
        f"| reduce | {reduce_wall:.1f} s wall, {reduce_cpu:.1f} CPU-s, peak {reduce_peak / 1e9:.2f} GB |",
        f"| sample | 1 in {result['sample']} |",
    ]
    for test in result["corpus"]:
        name = "planted" if test["key_id"] == planted("planted").tenant().id else "wrong"
        e = test["log10_e_any_document"]
        lines += [
            f"| {name} key, corpus: log10 p | {test['log10_p']:.2f} ({test['n_scored']:,} distinct items, {test['verdict']}) |",
            f"| {name} key, documents below the bar | {test['documents_below_bar']:,} |",
            f"| {name} key, log10 e that any document is marked | {'-' if e is None else f'{e:.2f}'} |",
        ]
    return lines


def plain(folder: Path) -> dict[str, Any]:
    """A result without what differs from run to run."""
    result, *_ = reduced(folder)
    del result["run"]
    return result


def resume(corpus: Path, work: Path, kills: int) -> list[str]:
    """Kill a scan at several points with SIGKILL, go on each time, and compare with a scan left alone."""
    options = ("--workers", "2", "--task-size", "4MB", "-q")
    subprocess.run(scan(corpus, work / "alone", *options), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = []
    folder = work / "killed"
    for kill in range(kills):
        before = len(list(folder.glob("sketches/*.parquet")))
        # A group of its own: all of its processes get the signal.
        process = subprocess.Popen(
            scan(corpus, folder, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and len(list(folder.glob("sketches/*.parquet"))) < before + 2 + kill:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lines.append(f"- SIGKILL {kill + 1}: {before} sketches before, {len(list(folder.glob('sketches/*.parquet')))} after")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("sketches/*.parquet")}
    subprocess.run(scan(corpus, folder, *options), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    untouched = sum(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    equal = plain(folder) == plain(work / "alone")
    lines.append(f"- then to the end: {untouched} of {len(kept)} sketches untouched; bit-equal to a run left alone: {equal}")
    return lines


def cluster(corpus: Path, work: Path) -> list[str]:
    """The same scan on two Ray nodes on the loopback and in local processes."""
    import ray
    from ray.cluster_utils import Cluster

    options = ("--workers", "2", "--task-size", "4MB", "-q")
    size = {"num_cpus": 1, "memory": 2 * 1024**3, "object_store_memory": 100 * 1024**2}
    nodes = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        nodes.add_node(**size)
        nodes.wait_for_nodes()
        started = time.monotonic()
        address = f"address={nodes.address}"
        command = scan(corpus, work / "ray", *options, "--executor", "ray", "--cluster", address)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.monotonic() - started
    finally:
        ray.shutdown()
        nodes.shutdown()
    subprocess.run(scan(corpus, work / "local", *options), check=True, stdout=subprocess.DEVNULL)
    shares = Counter(head.node for head in merge_heads([work / "ray"]).heads)
    equal = plain(work / "ray") == plain(work / "local")
    named = ", ".join(f"{node[:12]}: {count}" for node, count in sorted(shares.items()))
    return [
        f"- tasks of the nodes: {named}; {wall:.0f} s wall",
        f"- result bit-equal to a scan in local processes: {equal}",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    maker = verbs.add_parser("make")
    maker.add_argument("--megabytes", type=int, required=True)
    maker.add_argument("--out", type=Path, required=True)
    for verb in ("scan", "resume", "ray"):
        runner = verbs.add_parser(verb)
        runner.add_argument("corpus", type=Path)
        runner.add_argument("--work", type=Path, required=True)
        runner.add_argument("--workers", type=int, default=2)
        runner.add_argument("--kills", type=int, default=4)
        runner.add_argument("--report-only", action="store_true", help="of what a scan has done so far")
    arguments = parser.parse_args()
    if arguments.verb == "make":
        make(arguments.out, arguments.megabytes)
    elif arguments.verb == "scan":
        folder = arguments.work / "scan"
        if not arguments.report_only:
            subprocess.run(scan(arguments.corpus, folder, "--workers", str(arguments.workers)), check=True)
        print("\n".join(report(folder)))
    else:
        run = {"resume": lambda: resume(arguments.corpus, arguments.work, arguments.kills),
               "ray": lambda: cluster(arguments.corpus, arguments.work)}[arguments.verb]
        print("\n".join(run()))
