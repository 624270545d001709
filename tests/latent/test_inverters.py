from types import SimpleNamespace

import pytest

from lipo_e_ray.latent.inversion import SearchInverter
from lipo_e_ray.latent.inverters import make_inverter


def no_text(chats, samplings):
    raise AssertionError("an inverter was asked for texts when it was made")


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "/models/gtr-t5-large", "some/gtr-t5-base-finetuned"])
def test_other_encoders_get_the_search(name):
    assert isinstance(make_inverter(name, None, no_text), SearchInverter)


@pytest.mark.parametrize("name", ["sentence-transformers/gtr-t5-base", "gtr-t5-base", "/models/GTR-T5-base/"])
def test_gtr_gets_vec2text(name, monkeypatch):
    monkeypatch.setattr("lipo_e_ray.latent.vec2text.Vec2TextInverter", lambda given: SimpleNamespace(encoder=given))
    assert make_inverter(name, "the encoder", no_text).encoder == "the encoder"
