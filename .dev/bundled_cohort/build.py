r"""Make the bundled cohort: refusal decisions of public models on the SpeechMap questions, without any text.

    python .dev/bundled_cohort/build.py --data SPEECHMAP --tags benchmarks/recorded_models.json \
        --out fingerprint/bundled/speechmap

SPEECHMAP holds one JSON lines file a model (set, id, question, output), from github.com/xlr8harder/speechmap-data,
commit 0c084c2c62, Apache-2.0. Labels come from the product's own rules, so that a suspect probed today is labelled like the
cohort; the judges' labels of the source are not used. Style is left out: hashed word sequences of essays are still about words.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from wmcheck.fingerprint.adapter import import_transcripts
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.observe import observe

ABOUT = {
    "name": "speechmap-2025", "licence": "Apache-2.0", "suite": "speechmap",
    "origin": "derived from github.com/xlr8harder/speechmap-data, commit 0c084c2c62 (Apache-2.0): labels by rule, no text",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tags", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    tags = json.loads(arguments.tags.read_text())["speechmap"]
    subjects = []
    for name, transcripts in sorted(import_transcripts("labelled", [arguments.data]).runs.items()):
        kept = [replace(seen, suite="speechmap", label=None) for seen in transcripts if seen.stratum != "us_hard"]
        if kept:
            behaviour = replace(observe(name, kept, signatures=["refusal", "refusal_form"]), notes=())
            subjects.append(
                Subject(member=Member.from_dict({"name": name, **tags[name]}, str(arguments.tags)), behaviour=behaviour)
            )
    Cohort(subjects=tuple(subjects), about=ABOUT).save(arguments.out)


if __name__ == "__main__":
    main()
