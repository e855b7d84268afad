"""One offline engine in a process of its own: a JSON job on standard input, the answers as the last line of standard output."""

import asyncio
import json
import sys


def main():
    job = json.load(sys.stdin)
    answers = {"error": None, "texts": []}
    try:
        import sglang

        engine = sglang.Engine(**job["engine"])

        async def every():
            return await asyncio.gather(*(engine.async_generate(**one) for one in job["requests"]), return_exceptions=True)

        for one in engine.loop.run_until_complete(every()):
            answers["texts"].append(f"{type(one).__name__}: {one}" if isinstance(one, Exception) else one["output_ids"])
        engine.shutdown()
    except Exception as error:
        answers["error"] = f"{type(error).__name__}: {error}"
    print("\n" + json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
