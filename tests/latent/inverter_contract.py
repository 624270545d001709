"""What every ``Inverter`` promises. A test class inherits it and gives ``inverter``, ``targets`` and ``known``."""

import numpy as np

from lipo_e_ray.instructions.induction import clean_instruction
from lipo_e_ray.latent.inversion import identity


class InverterContract:
    def test_one_list_per_target_best_first(self, inverter, encoder, targets, known):
        found = inverter.invert(targets, known, seed=0)
        assert len(found) == len(targets) and all(found)
        for target, inversions in zip(targets, found, strict=True):
            cosines = [inversion.cosine for inversion in inversions]
            assert cosines == sorted(cosines, reverse=True)
            np.testing.assert_allclose(cosines, encoder.encode([i.text for i in inversions]) @ target, atol=1e-4)

    def test_texts_are_new_clean_and_distinct(self, inverter, targets, known):
        old = {identity(text) for text in known}
        for inversions in inverter.invert(targets, known, seed=0):
            names = [identity(inversion.text) for inversion in inversions]
            assert len(set(names)) == len(names)
            assert not old & set(names)
            assert all(clean_instruction(inversion.text) == inversion.text for inversion in inversions)

    def test_what_it_wrote_is_not_written_again_once_it_is_known(self, inverter, targets, known):
        first = [inversion.text for inversion in inverter.invert(targets, known, seed=0)[0]]
        again = inverter.invert(targets[:1], [*known, *(f"  {text.upper()} " for text in first)], seed=0)[0]
        assert not {identity(text) for text in first} & {identity(inversion.text) for inversion in again}

    def test_same_arguments_same_texts(self, inverter, targets, known):
        assert inverter.invert(targets, known, seed=3) == inverter.invert(targets, known, seed=3)

    def test_no_targets(self, inverter, targets, known):
        assert inverter.invert(targets[:0], known, seed=0) == []
