"""A scan on a Ray cluster of two nodes on the loopback, and one by Slurm's commands: the bits of a local scan."""

import json
import os
import sys

import numpy as np
import pytest

from wmcheck.cli.main import run
from wmcheck.watermark.corpus.reduce import merge_heads, reduce
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.profile import Profile

pytest.importorskip("datatrove")
pytest.importorskip("duckdb")
pytestmark = pytest.mark.slow


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_key_file(SecretKey.new(), "lab.wmk")
    Profile.create("gumbel", {"width": 2}).save("lab.profile.json")
    rng = np.random.default_rng(1)
    with open("a.jsonl", "w") as file:
        for i in range(600):
            file.write(json.dumps({"id": str(i), "tokens": rng.integers(1, 1000, 200).tolist()}) + "\n")
    return tmp_path


def scan(out, *options):
    # Names are relative: workers elsewhere must find the files all the same.
    code = run([
        "scan-corpus", "a.jsonl", "-p", "lab.profile.json", "--key", "file:lab.wmk", "--out", out, "--task-size", "60KB", "-q",
        *options,
    ])
    assert code == 0


def same(one, other):
    mine, theirs = merge_heads([one]), merge_heads([other])
    assert len(mine.files) > 8
    assert (mine.units, mine.best, mine.missing) == (theirs.units, theirs.best, 0)
    assert reduce(mine) == reduce(theirs)
    return theirs


def test_two_ray_nodes_do_what_one_process_does(corpus):
    # Neither the development environment nor .ci/run has Ray: docs/corpus.md says so.
    ray = pytest.importorskip("ray", reason="Ray is not installed, and no CI installs it: pip install 'wmcheck[ray]'")
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "memory": 2 * 1024**3, "object_store_memory": 100 * 1024**2}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        cluster.add_node(**size)
        cluster.wait_for_nodes()
        scan("ray", "--executor", "ray", "--workers", "2", "--cluster", f"address={cluster.address}")
    finally:
        ray.shutdown()
        cluster.shutdown()
    scan("local", "--workers", "1")
    merged = same("local", "ray")
    nodes = {head.node for head in merged.heads}
    assert len(nodes) == 2
    assert all(node.startswith("ray:") for node in nodes)


SBATCH = """#!{python}
# What Slurm does, one task after another: the script of the job, once for each number of its array.
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
array = re.search(r"--array=0-(\\d+)", script)
for number in range(int(array.group(1)) + 1 if array else 0):
    env = {{**os.environ, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_NODELIST": "here", "RUN_OFFSET": "0"}}
    subprocess.run(["bash", sys.argv[-1]], check=True, env=env, stdout=sys.stderr)
print("Submitted batch job 7")
"""


def test_slurm_tasks_do_what_one_process_does(corpus, monkeypatch):
    tools = corpus / "tools"
    tools.mkdir()
    # Slurm's programs on the path; the tasks themselves are DataTrove's.
    for name, text in {
        "sbatch": SBATCH.format(python=sys.executable), "scontrol": "#!/bin/sh\necho here\n",
        "srun": '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done\nexec "$@"\n',
        "launch_pickled_pipeline": f'#!/bin/sh\nexec {sys.executable} -m datatrove.tools.launch_pickled_pipeline "$@"\n',
        "merge_stats": "#!/bin/sh\n",
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    scan("slurm", "--executor", "slurm", "--cluster", "partition=p", "--cluster", "time=01:00:00")
    scan("local", "--workers", "1")
    same("local", "slurm")
