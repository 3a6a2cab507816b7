import random

import pytest

from cmp.space.domains import Choice, Domain, DomainError, Int, LogInt, LogUniform, Uniform, domain_from_plain

DOMAINS = [
    Uniform(-1.0, 2.0),
    Uniform(3.0, 3.0),
    LogUniform(1e-5, 1e-1),
    Int(-3, 9),
    Int(2, 16, 7),
    Int(1, 1_000_000),
    LogInt(1, 300),
    LogInt(7, 7),
    Choice(("half", -1, 6)),
    Choice((True, 1.5, None)),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_a_sample_is_always_contained(domain: Domain) -> None:
    rng = random.Random(0)

    assert all(domain.contains(domain.sample(rng)) for _ in range(500))


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_the_plain_form_reads_back_as_the_same_domain(domain: Domain) -> None:
    assert domain_from_plain(domain.to_plain()) == domain


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_extremes_and_probes_are_values_of_the_domain(domain: Domain) -> None:
    assert all(domain.contains(value) for value in [*domain.extremes(), *domain.probes()])
    assert set(domain.extremes()) <= set(domain.probes())


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_the_same_seed_gives_the_same_samples(domain: Domain) -> None:
    first, second = random.Random(7), random.Random(7)

    assert [domain.sample(first) for _ in range(20)] == [domain.sample(second) for _ in range(20)]


@pytest.mark.parametrize("seed", range(200))
def test_random_domains_hold_every_property(seed: int) -> None:
    rng = random.Random(seed)
    low = rng.randint(-50, 50)
    step = rng.randint(1, 9)
    steps = rng.randint(0, 40)
    positive = rng.randint(1, 50)
    for domain in (
        Uniform(low, low + rng.random() * 10),
        LogUniform(10 ** rng.uniform(-9, 0), 10 ** rng.uniform(0, 3)),
        Int(low, low + step * steps, step),
        LogInt(positive, positive + steps),
        Choice(tuple(rng.sample(range(100), rng.randint(1, 9)))),
    ):
        value = domain.sample(rng)
        smallest, largest = domain.extremes()
        assert domain.contains(value)
        assert smallest <= value <= largest
        assert domain_from_plain(domain.to_plain()) == domain


def test_int_includes_both_ends_and_keeps_its_step() -> None:
    rng = random.Random(0)

    assert {Int(2, 8, 3).sample(rng) for _ in range(200)} == {2, 5, 8}


def test_int_probes_hold_every_value_and_a_huge_one_still_shows_zero() -> None:
    assert Int(0, 10, 5).probes() == [0, 5, 10]
    assert 0 in Int(-10_000, 10_000).probes()


def test_logint_draws_each_end_as_often_as_its_logarithm_says() -> None:
    rng = random.Random(0)
    counts = [0, 0]
    for _ in range(20_000):
        counts[LogInt(1, 2).sample(rng) - 1] += 1

    # log(1.5 / 0.5) against log(2.5 / 1.5)
    assert counts[0] / sum(counts) == pytest.approx(0.683, abs=0.02)


def test_loguniform_is_even_in_the_logarithm() -> None:
    rng = random.Random(0)
    below = sum(LogUniform(1e-4, 1e-2).sample(rng) < 1e-3 for _ in range(10_000))

    assert below / 10_000 == pytest.approx(0.5, abs=0.02)


def test_a_choice_tells_true_from_one() -> None:
    assert Choice((True, 0)).contains(True)
    assert not Choice((True, 0)).contains(1)
    assert not Choice((True, 0)).contains(False)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"uniform": [2, 1]}, "{uniform: [2, 1]} is empty; write {uniform: [1, 2]}"),
        ({"int": [2, 1]}, "{int: [2, 1]} is empty; write {int: [1, 2]}"),
        ({"loguniform": [0, 1]}, "{loguniform: [0, 1]}: 0 has no logarithm; start above 0, or use {uniform: [0, 1]}"),
        ({"logint": [0, 8]}, "{logint: [0, 8]}: 0 has no logarithm; start above 0, or use {int: [0, 8]}"),
        ({"choice": []}, "{choice: []} has nothing to choose from"),
        ({"choice": [1, 2, 1]}, "{choice: [1, 2, 1]} lists 1 twice"),
        ({"choice": 5}, "{choice: 5}: write {choice: [a, b, c]}"),
        ({"uniform": 5}, "{uniform: 5}: write {uniform: [low, high]}"),
        ({"uniform": [1]}, "{uniform: [1]}: uniform takes two numbers, [low, high]"),
        ({"uniform": ["a", 1]}, '{uniform: ["a", 1]}: uniform takes two numbers, [low, high]'),
        (
            {"int": [2, 16, 2]},
            "{int: [2, 16, 2]}: int takes two numbers, [low, high]; for a step write {int: [2, 16], step: 2}",
        ),
        (
            {"int": [0.5, 2]},
            "{int: [0.5, 2]}: int takes whole numbers; for others use {uniform: [0.5, 2]}",
        ),
        (
            {"int": [1, 16], "step": 4},
            "{int: [1, 16], step: 4}: 16 cannot be reached from 1 in steps of 4; end at 13 or 17",
        ),
        ({"int": [1, 16], "step": 0}, "{int: [1, 16], step: 0}: step 0 is below 1"),
        ({"uniform": [1, 2], "step": 1}, "{uniform: [1, 2], step: 1}: only {int: [low, high]} has a step"),
        (
            {"lognormal": [1, 2]},
            '"lognormal" is not a domain; use one of uniform, loguniform, int, logint, choice; '
            "did you mean loguniform?",
        ),
        (
            {"int": [1, 2], "choice": [3]},
            "{int: [1, 2], choice: [3]} is not a domain; write one of {uniform: [...]}, {loguniform: [...]}, "
            "{int: [...]}, {logint: [...]}, {choice: [...]}",
        ),
        (
            {},
            "{} is not a domain; write one of {uniform: [...]}, {loguniform: [...]}, {int: [...]}, {logint: [...]}, "
            "{choice: [...]}",
        ),
    ],
)
def test_a_domain_that_makes_no_sense_is_refused(plain: dict, message: str) -> None:
    with pytest.raises(DomainError) as caught:
        domain_from_plain(plain)

    assert str(caught.value) == message
