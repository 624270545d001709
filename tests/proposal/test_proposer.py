import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from lipo_e_ray.config import ProposalConfig
from lipo_e_ray.proposal.candidates import Candidate
from lipo_e_ray.surrogate.gp import JointPromptGP, SurrogateError
from lipo_e_ray.types import Observation, Prompt, Request
from tests.proposal.fakes import (
    GIVEN,
    POOL,
    FakeSpace,
    embedding,
    make_proposer,
    random_observations,
    random_prompt,
    true_error,
)

OBSERVED = random_observations(30, 1, list(GIVEN))


def ask(stage, bracket, n, observed=(), running=(), first=0):
    return Request(stage, bracket, n, tuple(observed), tuple(running), first)


def proposed(request, proposer=None, **changes):
    return list((proposer or make_proposer(**changes)).propose(request).proposals)


def test_the_first_chunk_has_plain_and_random_prompts_and_needs_no_latent_space():
    made = []
    proposer = make_proposer(given={f"own {i}": "file" for i in range(9)} | GIVEN)
    make = proposer._make_latent
    proposer._make_latent = lambda: made.append(1) or make()
    first = proposed(ask("hyperband", 0, 8), proposer)
    assert [p.prompt for p in first[:4]] == [Prompt(f"own {i}") for i in range(4)]
    assert [p.info for p in first] == [{"way": "plain"}] * 4 + [{"way": "random"}] * 4
    assert {p.origin.bracket for p in first} == {0} and first[0].origin.source == "file"
    assert made == []
    proposer.prepare()
    proposed(ask("hyperband", 1, 3, OBSERVED), proposer)
    assert made == [1]


def test_each_chunk_has_a_chance_of_its_own():
    first, second = (proposed(ask("hyperband", 1, 6, first=first)) for first in (0, 6))
    assert not {p.prompt.id for p in first} & {p.prompt.id for p in second}


def test_without_observations_a_batch_is_random():
    proposals = proposed(ask("hyperband", 2, 20, OBSERVED[:3]))
    assert len({p.prompt.id for p in proposals}) == 20
    assert all(p.info == {"way": "random"} for p in proposals)
    assert len({len(p.prompt.exemplars) for p in proposals}) > 1


def test_four_prompts_with_exemplars_are_enough_for_the_surrogate():
    known = [(prompt, o) for prompt, o in OBSERVED if prompt.exemplars][:4]
    ways = [p.info["way"] for p in proposed(ask("hyperband", 1, 8, known))]
    assert ways.count("random") < 4 and all("mean" in p.info for p in proposed(ask("hyperband", 1, 8, known)))
    assert {p.info["way"] for p in proposed(ask("hyperband", 1, 8, known[:3]))} == {"random"}


def test_plain_prompts_alone_teach_nothing_about_exemplars_and_a_batch_is_random():
    seeds = [(Prompt(text), Observation(Prompt(text).id, 5, 10)) for text in list(GIVEN)[:6]]
    proposals = proposed(ask("hyperband", 1, 20, seeds))
    assert all("mean" not in p.info for p in proposals)
    assert len({len(p.prompt.exemplars) for p in proposals}) > 1


def test_what_it_took_to_write_a_batch_comes_with_it():
    paid = iter([10, 17, 17, 20])
    proposer = make_proposer(written=lambda: next(paid))
    batches = [proposer.propose(ask("invbo", 5, 3, OBSERVED)) for _ in range(2)]
    assert [batch.written for batch in batches] == [7, 3]


def test_sources_fill_the_batch_in_their_order_and_are_told_what_is_in_it():
    told = []

    class Fixed:
        def __init__(self, *texts):
            self.prompts = [Prompt(text) for text in texts]

        def propose(self, state, count, rng):
            told.append((count, len(state.excluded)))
            return [Candidate(prompt, 0.5, {"from": "fixed"}) for prompt in state.new(self.prompts)[:count]]

    sources = {"hyperband": (Fixed("a", "b"), Fixed("b", "c"), Fixed("d", "e"), Fixed("never asked"))}
    proposals = proposed(ask("hyperband", 1, 4), sources=sources)
    assert [p.prompt.instruction for p in proposals] == list("abcd")
    assert told == [(4, 0), (2, 2), (1, 3)]
    assert proposals[0].info == {"from": "fixed"}
    assert proposals[0].origin.cosine == 0.5


class NaNSpace(FakeSpace):
    """All latents are NaN: what a broken encoder or VAE would make of any prompt."""

    def encode(self, prompts):
        return super().encode(prompts) * torch.nan

    def invert(self, prompts):
        return self.encode(prompts)


class UnfitGP(JointPromptGP):
    def fit(self, z, errors, evaluated, prompt=None):
        raise SurrogateError("GP on 30 prompts: expected finite predictions, got NanError: NaN")


@pytest.mark.parametrize("stage", ["hyperband", "invbo"])
@pytest.mark.parametrize("broken", ["latents", "GP"])
def test_without_a_usable_surrogate_the_search_goes_on_at_random_but_not_invbo_and_says_so(stage, broken, caplog):
    proposer = make_proposer(space=NaNSpace()) if broken == "latents" else make_proposer(make_gp=UnfitGP)
    proposals = proposed(ask(stage, 3, 20, OBSERVED), proposer)
    new = {p.prompt.id for p in proposals} - {prompt.id for prompt, _ in OBSERVED}
    assert len(new) == len(proposals) == (20 if stage == "hyperband" else 0)
    assert all("mean" not in p.info for p in proposals)
    json.dumps([p.info for p in proposals], allow_nan=False)
    message = caplog.messages[0]
    assert message.startswith("bracket 3: GP") and message.endswith("; no prompt of it is chosen by a surrogate")
    assert proposed(ask(stage, 3, 20, OBSERVED), proposer) == proposals, "a resumed run proposes the same"


@pytest.mark.parametrize("stage", ["hyperband", "invbo"])
class TestBatch:
    def test_is_distinct_and_new(self, stage):
        proposals = proposed(ask(stage, 5, 12, OBSERVED))
        ids = [p.prompt.id for p in proposals]
        assert len(set(ids)) == 12 and not set(ids) & {prompt.id for prompt, _ in OBSERVED}
        assert all(len(set(p.prompt.exemplars)) == len(p.prompt.exemplars) <= 4 for p in proposals)
        positions = [[POOL.index(e) for e in p.prompt.exemplars] for p in proposals]
        assert all(position == sorted(position) for position in positions)

    def test_is_the_same_for_the_same_arguments_and_depends_on_the_seed(self, stage):
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        first = proposed(ask(stage, 5, 6, OBSERVED))
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(2)
        used = make_proposer()
        used.propose(ask(stage, 4, 6, OBSERVED[:20]))  # an earlier call leaves nothing behind
        again = proposed(ask(stage, 5, 6, OBSERVED), used)
        assert [(p, p.info) for p in again] == [(p, p.info) for p in first]
        other = proposed(ask(stage, 5, 6, OBSERVED), seed=1)
        assert [p.prompt for p in other] != [p.prompt for p in first]

    def test_is_plain_json_with_the_prediction(self, stage):
        for proposal in proposed(ask(stage, 5, 6, OBSERVED)):
            info = json.loads(json.dumps(asdict(proposal)))["info"]
            assert len(info["z"]) == FakeSpace.dim and -0.5 < info["mean"] < 1.5 and 0 < info["std"] < 1


def test_prompts_without_an_answer_are_not_proposed_again_nor_fitted():
    observed = [*OBSERVED[:10], *((prompt, Observation(prompt.id, 0, 0)) for prompt, _ in OBSERVED[10:])]
    proposals = proposed(ask("hyperband", 1, 8, observed))
    assert not {p.prompt.id for p in proposals} & {prompt.id for prompt, _ in observed}
    few = proposed(ask("hyperband", 1, 8, observed[:3] + observed[10:]))
    assert "mean" not in few[0].info


def test_the_surrogate_is_given_every_rung_of_a_prompt():
    seen = []

    class Spy(JointPromptGP):
        def fit(self, z, errors, evaluated, prompt=None):
            seen.append((len(z), list(zip(prompt, evaluated, errors, strict=True))))
            return super().fit(z, errors, evaluated, prompt)

    wider = [(prompt, Observation(prompt.id, o.errors + 1, o.evaluated + 8)) for prompt, o in OBSERVED]
    observed = [pair for pairs in zip(OBSERVED, wider, strict=True) for pair in pairs]
    make_proposer(make_gp=Spy).propose(ask("hyperband", 1, 4, observed))
    ((m, counts),) = seen
    assert m == len(OBSERVED)
    assert counts == [
        (i, o.evaluated, o.errors) for i, pair in enumerate(zip(OBSERVED, wider, strict=True)) for _, o in pair
    ]


def test_an_exhausted_space_gives_what_there_is_and_says_so(caplog):
    given = dict(list(GIVEN.items())[:8])
    observed = [(Prompt(text), Observation(Prompt(text).id, i, 16)) for i, text in enumerate(list(given)[:5])]
    proposer = make_proposer(given=given, max_exemplars=0)
    assert len(proposed(ask("hyperband", 0, 6, observed), proposer)) == 3
    assert "expected 6 new prompts, found 3" in caplog.text
    unanswered = [(Prompt(text), Observation(Prompt(text).id, 0, 0)) for text in list(given)[5:7]]
    (last,) = proposed(ask("hyperband", 0, 6, [*observed, *unanswered]), proposer)
    assert last.prompt == Prompt(list(given)[7])


def test_no_instruction_is_refused():
    with pytest.raises(ValueError, match="at least one instruction"):
        make_proposer(given={})


def test_invbo_writes_new_instructions_near_their_targets():
    space = FakeSpace()
    proposals = proposed(ask("invbo", 7, 6, OBSERVED), space=space)
    new = [p for p in proposals if p.prompt.instruction not in GIVEN]
    assert len(new) >= 3 and proposals[: len(new)] == new
    for p in new:
        target = space.decode_instruction(torch.tensor([p.info["target"]], dtype=torch.float64))[0]
        assert p.origin.source == "invbo" and p.origin.stage == "invbo"
        assert p.origin.cosine == pytest.approx(target @ embedding(p.prompt.instruction), abs=1e-4)
        assert p.info["anchor"] in {prompt.id for prompt, _ in OBSERVED} and p.info["length"] == 0.8
    assert all(p.origin.cosine is None for p in proposals if p not in new)
    assert space.inverted >= len(OBSERVED)  # fitted and ranked where decoding gives the prompt back


def test_invbo_falls_back_when_nothing_new_is_written():
    proposals = proposed(ask("invbo", 7, 6, OBSERVED), limit=0)
    assert len(proposals) == 6
    assert all(
        p.prompt.instruction in GIVEN and p.origin.stage == "invbo" and p.origin.source != "invbo" for p in proposals
    )


def test_instructions_of_invbo_stay_in_the_search():
    text = "solve this problem again"
    assert text not in GIVEN
    star = Prompt(text, POOL[:2])
    observed = [*OBSERVED, (star, Observation(star.id, 0, 128))]
    proposals = proposed(ask("hyperband", 9, 16, observed))
    assert {p.origin.source for p in proposals if p.prompt.instruction == text} == {"invbo"}


def test_proposals_beat_random_prompts_on_a_landscape():
    """True error of 16 proposals after 60 observations against 300 random prompts, 3 seeds."""
    gains = {"hyperband": [], "invbo": []}
    for seed in range(3):
        observed = random_observations(60, seed, list(GIVEN))
        rng = np.random.default_rng(100 + seed)
        random = np.mean([true_error(random_prompt(rng, list(GIVEN))) for _ in range(300)])
        for stage, gain in gains.items():
            proposer = make_proposer(seed=seed, proposal=ProposalConfig(instructions=20, random_fraction=0.0))
            proposals = proposed(ask(stage, 3, 16, observed), proposer)
            gain.append(random - np.mean([true_error(p.prompt) for p in proposals]))
    assert all(np.mean(gain) > 0.2 and min(gain) > 0.1 for gain in gains.values())


@pytest.mark.parametrize("stage", ["hyperband", "invbo"])
def test_what_is_running_is_not_proposed_again_and_spends_its_place(stage):
    """The batch with some of its prompts running already: those are left out, and it is another one without them."""
    first = [p.prompt for p in proposed(ask(stage, 5, 6, OBSERVED))]
    running = (*first[:3], OBSERVED[0][0])
    second = [p.prompt for p in proposed(ask(stage, 5, 6, OBSERVED, running))]
    assert len({prompt.id for prompt in second}) == 6
    assert not {prompt.id for prompt in second} & {prompt.id for prompt in (*running, *(o[0] for o in OBSERVED))}


def test_a_running_batch_is_no_failure_of_the_trust_region():
    """Four iterations without a new best halve the region; one of them that still runs does not count."""
    poor = [Prompt(f"an unheard-of text, number {i}", POOL[:1]) for i in range(4 * 4)]
    observed = [*OBSERVED, *((prompt, Observation(prompt.id, 90, 100)) for prompt in poor)]

    def lengths(running):
        proposals = proposed(ask("invbo", 9, 4, observed, running))
        return {p.info["length"] for p in proposals if "length" in p.info}

    assert lengths(()) == {0.4}
    assert lengths(poor[-1:]) == {0.8}
