"""One offline engine in a process of its own: a JSON job on standard input, the answers as a line of standard output."""

import json
import sys


def main():
    job = json.load(sys.stdin)
    answers = {"error": None, "texts": []}
    try:
        from vllm import LLM, SamplingParams

        engine = LLM(**job["engine"])
        params = [SamplingParams(**one) for one in job["requests"]]
        for one in engine.generate(job["prompts"], params):
            answers["texts"].append([list(one.prompt_token_ids), list(one.outputs[0].token_ids)])
    except Exception as error:
        answers["error"] = f"{type(error).__name__}: {error}"
    print("\n" + json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
