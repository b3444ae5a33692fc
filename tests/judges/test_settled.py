"""Rounding that no batch can change: values near the middle between two steps are measured again by themselves."""

import random

from emodistill.judges.request import settled

NOISE = 0.001


def test_two_noisy_measurements_round_alike() -> None:
    rng = random.Random(0)
    true = [rng.random() for _ in range(2000)] + [0.005 + 0.01 * step for step in range(100)]
    alone = [value + rng.uniform(-NOISE, NOISE) / 2 for value in true]

    def measured() -> list[float]:
        return settled([value + rng.uniform(-NOISE, NOISE) / 2 for value in true], 2, NOISE, alone.__getitem__)

    first, second = measured(), measured()
    assert first == second
    assert all(abs(found - value) <= 0.005 + NOISE for found, value in zip(first, true, strict=True))


def test_only_values_near_the_middle_are_measured_again() -> None:
    asked: list[int] = []

    def again(place: int) -> float:
        asked.append(place)
        return 0.0

    values = [1.0, 0.0, 0.4951, 0.4949, 0.497, 0.5]
    assert settled(values, 2, NOISE, again) == [1.0, 0.0, 0.0, 0.0, 0.5, 0.5]
    assert asked == [2, 3]
