from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS


def test_a_dozen_distinct_short_clean_lines():
    assert len(SEED_INSTRUCTIONS) == 12
    assert len({seed.casefold() for seed in SEED_INSTRUCTIONS}) == len(SEED_INSTRUCTIONS)
    for seed in SEED_INSTRUCTIONS:
        assert seed == seed.strip() and "\n" not in seed and 10 <= len(seed) <= 120


def test_the_baseline_holds_what_people_start_from():
    assert {"Let's think step by step.", "Solve the problem."} <= set(SEED_INSTRUCTIONS)


def test_no_seed_knows_the_demo_task():
    for seed in SEED_INSTRUCTIONS:
        assert not any(word in seed.casefold() for word in ("arithmetic", "gsm8k", "word problem"))
