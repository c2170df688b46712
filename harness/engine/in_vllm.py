"""The process that generates with vLLM. It runs in vLLM's own environment and imports vLLM and the standard library alone.

JSON lines on standard input and output. First comes ``{"model": FOLDER, "dtype": ..., "memory_share": ...,
"prefix_caching": ...}``, then requests ``{"prompts": [[ids], ...], "limits": [most new tokens, ...], "ends": [ids],
"stop_strings": [...]}``. The answer to a request is ``{"tokens": [[ids], ...]}`` in the order of the prompts: greedy, the token
that ended a row included.
"""

import json
import os
import sys

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where vLLM and its processes log
    setup = json.loads(sys.stdin.readline())
    share = {} if setup["memory_share"] is None else {"gpu_memory_utilization": setup["memory_share"]}
    # What a model's generation_config.json says (sampling, penalties, further ends) would be mixed into every request.
    share |= {"enable_prefix_caching": setup["prefix_caching"]}
    engine = LLM(model=setup["model"], dtype=setup["dtype"], generation_config="vllm", seed=0, **share)
    for line in sys.stdin:
        request = json.loads(line)
        settings = [
            SamplingParams(
                temperature=0,
                max_tokens=limit,
                stop=request["stop_strings"],
                stop_token_ids=request["ends"],
                ignore_eos=True,  # the ends say it all
            )
            for limit in request["limits"]
        ]
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in request["prompts"]]
        rows = engine.generate(prompts, settings, use_tqdm=False)
        print(json.dumps({"tokens": [list(row.outputs[0].token_ids) for row in rows]}), file=answers, flush=True)


if __name__ == "__main__":  # vLLM starts processes that import this file again
    main()
