"""Sessions give what ``fresh_rows`` gives, however the engine came to the ids."""

import numpy as np
import pytest

from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.serving.deployment import Deployment, Reasoning
from wmcheck.watermark.serving.policy import Policy
from wmcheck.watermark.serving.sessions import ContextError, Sampling, Session, Windows
from wmcheck.watermark.windows import fresh_rows

KEY = SecretKey(bytes((91 * i * i + 7 * i + 3) % 256 for i in range(32)))
SPECIAL = (0, 5)


def deployment(width=2, **options):
    parameters = {"width": width} | ({"window_rule": False} if options.pop("no_rule", False) else {})
    profile = Profile.create("redgreen", parameters, special_ids=SPECIAL)
    return Deployment(profile, KEY, Policy(opt_out=True), **options)


def opened(made, prompt, output):
    return Session.open(made, {"wmcheck_tenant": "a"}, prompt, output, Sampling())


def expected(ids, width, *, window_rule=True):
    return bool(fresh_rows(np.array([ids]), width, np.array(SPECIAL), window_rule=window_rule)[0])


@pytest.mark.parametrize("width", [0, 1, 2, 4])
@pytest.mark.parametrize("no_rule", [False, True])
def test_agree_with_fresh_rows_while_they_grow(width, no_rule):
    rng = np.random.default_rng(width)
    made = deployment(width, no_rule=no_rule)
    windows, rule = Windows(made), not no_rule and width > 0
    seen = set()
    for _ in range(12):
        prompt, output = rng.integers(0, 6, rng.integers(0, 7)).tolist(), []
        session = opened(made, prompt, output)
        for _ in range(40):
            found, (reason,) = windows.of([session])
            ids = prompt + output
            assert (reason == "") == expected(ids, width, window_rule=rule), (ids, reason)
            if reason != "short":
                assert found[0].tolist() == ids[len(ids) - width :]
            # Called again without a new token, as for a prompt that is prefilled in chunks: the same answer.
            assert windows.of([session])[1] == [reason]
            seen.add(reason)
            output.append(int(rng.integers(0, 6)))
    wanted = {"", "special"} if width else {""}
    assert wanted | ({"repeated"} if rule else set()) | ({"short"} if width > 1 else set()) <= seen


def test_agree_after_preemption_rollback_and_jumps():
    """The list of ids may shrink, change and jump between two calls: drafts, resumed and recycled requests."""
    rng = np.random.default_rng(7)
    made = deployment(2)
    windows = Windows(made)
    prompt, output = [1, 2, 3, 1], [2]
    session = opened(made, prompt, output)
    for _ in range(400):
        match rng.integers(0, 4):
            case 0:
                output.append(int(rng.integers(1, 5)))
            case 1:
                output.extend(rng.integers(1, 5, 3).tolist())
            case 2 if len(output) > 2:
                # Rolled back by one or two, then on by as many and one more: the length of a row that grew by one.
                back = int(rng.integers(1, 3))
                output[-back:] = rng.integers(1, 5, back + 1).tolist()
            case _:
                session = opened(made, prompt, output)
        if len(output) > 30:
            del output[5:]
        assert (windows.of([session])[1] == [""]) == expected(prompt + output, 2), output


def test_a_batch_is_its_rows():
    made = deployment(2)
    windows = Windows(made)
    rows = [[1, 2, 3], [1], [3, 0], [1, 2, 1, 2], [4, 4, 4]]
    assert windows.of([opened(made, row, []) for row in rows])[1] == ["", "short", "special", "repeated", "repeated"]


@pytest.mark.parametrize("output", [[-1], [3, -1], [-1, 3]])
def test_placeholders_of_asynchronous_scheduling_are_an_error(output):
    """vLLM's entry-point plug-ins see -1 for tokens that are not known yet: marking them would lose the watermark."""
    made = deployment(2)
    with pytest.raises(ContextError, match="does not know the last token yet"):
        Windows(made).of([opened(made, [1, 2, 3], output)])


def test_reasoning_sections():
    made = deployment(1, reasoning=Reasoning(start=7, end=8))
    windows, output = Windows(made), []
    session, reasons = opened(made, [1], output), []
    for token in (7, 2, 3, 8, 4, 7, 1, 9, 8, 11):
        output.append(token)
        reasons.append(windows.of([session])[1][0])
    assert [reason == "reasoning" for reason in reasons] == [True, True, True, False, False, True, True, True, False, False]
    again = opened(made, [1, *output[:3]], output[3:6])
    assert windows.of([again])[1] == ["reasoning"], "a template may open the section in the prompt"


def test_reasoning_on_tensors_is_that_of_sessions():
    """Model Runner V2 and `generate` look at whole histories on the device."""
    import torch

    from wmcheck.watermark.serving.marker import inside

    made = deployment(1, reasoning=Reasoning(start=7, end=8))
    rows = np.random.default_rng(3).integers(6, 10, (60, 9))
    found = inside(torch.from_numpy(rows), made.reasoning).tolist()
    reasons = Windows(made).of([opened(made, row, []) for row in rows.tolist()])[1]
    assert found == [reason == "reasoning" for reason in reasons]
    assert 5 < sum(found) < 55
