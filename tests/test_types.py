import pytest

from lipo_e_ray.types import Example, Observation, Prompt, Sampling, digest


def test_digest_knows_where_a_part_ends():
    assert digest("ab", "c") != digest("a", "bc")
    assert len(digest("x")) == 16


def test_prompt_id_is_the_content():
    one, two = Example("q", "a"), Example("r", "b")
    assert Prompt("do", (one, two)).id == Prompt("do", (Example("q", "a"), two)).id
    different = [Prompt("do"), Prompt("do", (one,)), Prompt("do", (two, one)), Prompt("do", (one, two))]
    assert len({prompt.id for prompt in different}) == 4


def test_text_no_codec_can_encode_still_has_an_id():
    assert Example("\ud800", "a").id != Example("\ud801", "a").id


@pytest.mark.parametrize("counts", [(-1, 3, 0), (4, 3, 0), (1, 3, 2)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="unparseable <= errors <= evaluated"):
        Observation("p", *counts)


def test_error_is_a_rate():
    assert Observation("p", 3, 12).error == 0.25


def test_sampling_fingerprint_covers_every_field():
    prints = {
        Sampling().fingerprint,
        Sampling(temperature=1).fingerprint,
        Sampling(top_p=0.5).fingerprint,
        Sampling(max_tokens=9).fingerprint,
        Sampling(stop=("x",)).fingerprint,
        Sampling(seed=1).fingerprint,
    }
    assert len(prints) == 6
