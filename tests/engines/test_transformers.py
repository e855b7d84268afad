"""transformers: ``generate``, continuous batching and ``transformers serve``, with a table of what was detected."""

import copy
import json
import socket
import time
import urllib.error
import urllib.request

import pytest
from conftest import TENANTS, name_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig  # noqa: E402

from wmcheck.watermark.serving.deployment import Deployment  # noqa: E402
from wmcheck.watermark.serving.transformers import WatermarkConfig, enforce  # noqa: E402
from wmcheck.watermark.serving.transformers_batching import continuous_batching  # noqa: E402

pytestmark = pytest.mark.engines

ENGINE = name_of("transformers")
PROMPTS = ("Once upon a time", "One day, a boy named Tim went to the park.", "The big red ball rolled down the hill.")
OWNERS = (*TENANTS, None)
# Three tenants and a request that opts out.
ASKED = [{"wmcheck_tenant": one} if one else {"wmcheck_tenant": TENANTS[0], "wmcheck_opt_out": True} for one in OWNERS]
SCHEMES = ("redgreen", "gumbel", "tournament")
# Without psutil the default cache takes most of the memory of a CPU machine.
CACHE = {"num_blocks": 512, "page_size": 32, "max_batch_tokens": 512}


@pytest.fixture(scope="module")
def served(lab):
    """Model, prompts as ids, and the deployment of a scheme."""
    torch.manual_seed(0)
    # A second thread makes a model of this size several times slower wherever something else runs too.
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(lab.model)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    return AutoModelForCausalLM.from_pretrained(lab.model).eval(), ids, lambda scheme: Deployment.load(lab.serving(scheme))


def generate(model, config, prompts, new=200, **options):
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"do_sample": True, "top_p": 0.98, "top_k": 200, "max_new_tokens": new, "min_new_tokens": new} | options
    rows = model.generate(input_ids=padded, attention_mask=mask, pad_token_id=0, watermarking_config=config, **options)
    return [row[longest:] for row in rows.tolist()]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_generate(lab, served, scheme):
    model, ids, deployment = served
    prompts = [ids[place % 3] for place in range(4)]
    config = WatermarkConfig.of(deployment(scheme), ASKED)
    lab.judge(ENGINE, lab.profile(scheme), zip(OWNERS, prompts, generate(model, config, prompts), strict=True), note="generate")
    assistant = copy.deepcopy(model)
    assistant.generation_config.num_assistant_tokens = 6
    for note, options in (("assisted", {"assistant_model": assistant}), ("prompt lookup", {"prompt_lookup_num_tokens": 3})):
        texts = []
        for place, owner in enumerate(OWNERS):
            config = WatermarkConfig.of(deployment(scheme), ASKED[place])
            texts.append((owner, prompts[place], generate(model, config, prompts[place : place + 1], **options)[0]))
        lab.judge(ENGINE, lab.profile(scheme), texts, note=note)


class Manager:
    """A manager that runs, and the outputs that it delivered."""

    def __init__(self, model, deployment, **config):
        settings = {"do_sample": True, "max_new_tokens": 200, "eos_token_id": -1} | config
        self.manager = continuous_batching(model, deployment, GenerationConfig(**settings), ContinuousBatchingConfig(**CACHE))
        self.found = {}

    def __enter__(self):
        self.manager.start()
        return self

    def __exit__(self, *_):
        self.manager.stop()
        self.manager.destroy()

    def wait(self, until, seconds=300):
        end = time.monotonic() + seconds
        while not until() and time.monotonic() < end:
            result = self.manager.get_result(timeout=0.1)
            if result is not None and result.is_finished():
                self.found[result.request_id] = result
        assert until()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_continuous_batching(lab, served, scheme):
    model, ids, deployment = served
    with Manager(model, deployment(scheme)) as running:
        names = [running.manager.add_request(ids[place % 3], **asked) for place, asked in enumerate(ASKED)]
        running.wait(lambda: len(running.found) == 4)
    texts = [
        (owner, running.found[name].prompt_ids, running.found[name].generated_tokens)
        for owner, name in zip(OWNERS, names, strict=True)
    ]
    lab.judge(ENGINE, lab.profile(scheme), texts, note="continuous batching")


def test_sixty_four_requests_of_which_some_are_cancelled(lab, served):
    model, ids, deployment = served
    profile = lab.profile("gumbel")
    with Manager(model, deployment("gumbel"), max_new_tokens=160) as running:
        names = [running.manager.add_request(ids[place % 3], **ASKED[place % 4]) for place in range(64)]
        running.wait(lambda: getattr(running.manager, "current_batch", 0) > 20)
        cancelled = set(names[5::4])
        for name in cancelled:
            running.manager.cancel_request(name)
        later = [running.manager.add_request(ids[place % 3], **ASKED[place % 4]) for place in range(8)]
        running.wait(lambda: set(names) - cancelled | set(later) <= set(running.found))
        kept = next(one for one in running.manager.logit_processor.logits_processor if hasattr(one, "marker"))
    assert len(kept._open) < 72
    for place, name in [*enumerate(names), *enumerate(later)]:
        if name in cancelled:
            continue
        result, owner = running.found[name], OWNERS[place % 4]
        assert result.error is None
        for tenant in TENANTS:
            found = lab.log10_p(profile, tenant, result.prompt_ids, result.generated_tokens)
            assert (found < -6) == (tenant == owner), (place, tenant, found)


@pytest.fixture
def server(lab, request):
    """``transformers serve`` with the watermark enforced on its model when it is loaded."""
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("pip install 'transformers[serving]'")
    from transformers.cli.serve import Serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Serve(continuous_batching=request.param, device="cpu", port=port, non_blocking=True, log_level="error")
    load = running._model_manager._load_model
    deployment = Deployment.load(lab.serving("gumbel", "serve", lines=[f'default_tenant = "{TENANTS[0]}"']))

    def loaded(*args, **options):
        model = load(*args, **options)
        enforce(model, WatermarkConfig.of(deployment))
        return model

    running._model_manager._load_model = loaded

    def ask(**body):
        body = {"model": lab.model, "prompt": PROMPTS[0], "max_tokens": 150, "temperature": 1.0, **body}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        for _ in range(60):
            try:
                with urllib.request.urlopen(asked, timeout=120) as answer:
                    return answer.status, json.load(answer)["choices"][0]["text"]
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except urllib.error.URLError:
                time.sleep(0.5)
        raise AssertionError("no server")

    yield ask
    running.kill_server()


OWN = {"do_sample": True, "min_new_tokens": 150, "max_new_tokens": 150}


@pytest.mark.parametrize("server", [False], indirect=True)
def test_serve(lab, served, server):
    """A wrapped server marks for one tenant, also where the client sends a configuration; another watermark is refused."""
    tokenizer = AutoTokenizer.from_pretrained(lab.model)
    profile, texts = lab.profile("gumbel"), []
    status, text = server(generation_config=json.dumps(OWN))
    assert status == 200, text
    texts.append((TENANTS[0], served[1][0], tokenizer(text, add_special_tokens=False)["input_ids"]))
    lab.judge(ENGINE, profile, texts, note="serve")
    status, text = server(generation_config=json.dumps(OWN | {"watermarking_config": {"bias": 2.0}}))
    assert status != 200, text


@pytest.mark.parametrize("server", [True], indirect=True)
def test_serve_with_continuous_batching_is_refused(server, caplog):
    """Its manager has no parameters a request: nothing is written, marked or not."""
    status, text = server(generation_config=json.dumps(OWN))
    assert status != 200, text
    # The server logs the error after it answered.
    end = time.monotonic() + 20
    while "would lose this watermark" not in caplog.text and time.monotonic() < end:
        time.sleep(0.1)
    assert "would lose this watermark" in caplog.text
