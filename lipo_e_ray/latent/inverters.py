"""Which inverter a run uses."""

from __future__ import annotations

from lipo_e_ray.latent.encoder import Encoder
from lipo_e_ray.latent.inversion import Inverter, SearchInverter
from lipo_e_ray.types import Generate


def make_inverter(encoder_name: str, encoder: Encoder, generate: Generate) -> Inverter:
    """``Vec2TextInverter`` where a trained corrector exists (GTR-T5-Base), ``SearchInverter`` for any other encoder.

    Raises ``InputError`` when the corrector's weights can't be loaded.
    """
    if encoder_name.rstrip("/").rsplit("/", 1)[-1].lower() == "gtr-t5-base":
        from lipo_e_ray.latent.vec2text import Vec2TextInverter  # transformers' whole training code, needed here only

        return Vec2TextInverter(encoder)
    return SearchInverter(encoder, generate)
