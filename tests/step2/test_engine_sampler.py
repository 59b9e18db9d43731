"""Sampling against the exact nucleus distribution, and noise that depends on the prompt alone."""

import pytest
import torch
from engine.sampler import (
    CANDIDATES,
    SamplingSettings,
    gumbel_noise,
    noise_key,
    sample,
    sample_sorted,
    sample_unsorted,
)

DRAWS = 40_000
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SAMPLERS = {"sorted": sample_sorted, "unsorted": sample_unsorted}


def exact_nucleus(logits, top_p):
    """Probabilities after nucleus sampling, by the definition and in float64: [vocabulary]."""
    probabilities = torch.softmax(logits.double(), dim=0)
    kept = torch.zeros_like(probabilities)
    for token, probability in enumerate(probabilities):
        before = probabilities[probabilities > probability].sum()
        kept[token] = probability if before <= top_p else 0
    return kept / kept.sum()


def draw_many(logits, top_p, draws=DRAWS, sampler="sorted", batch=4_000):
    """Counts of the drawn tokens, each draw with another prompt's noise: [vocabulary]."""
    counts = torch.zeros(len(logits), dtype=torch.int64)
    generator = torch.Generator().manual_seed(5)
    keys = torch.randint(-(2**63), 2**63 - 1, (draws,), generator=generator)
    for some in keys.split(batch):
        rows = logits.expand(len(some), -1)
        tokens = SAMPLERS[sampler](rows, some, torch.zeros_like(some), top_p)
        counts += torch.bincount(tokens, minlength=len(logits))
    return counts


def assert_drawn_from(counts, expected):
    """Chi-square goodness of fit at 5 standard deviations; nothing outside the nucleus."""
    assert counts[expected == 0].sum() == 0, "tokens outside the nucleus were drawn"
    means = expected * counts.sum()
    frequent = means >= 5
    observed, means_of = counts[frequent].double(), means[frequent]
    if (~frequent).any() and means[~frequent].sum() > 0:
        observed = torch.cat((observed, counts[~frequent].sum()[None].double()))
        means_of = torch.cat((means_of, means[~frequent].sum()[None]))
    freedom = len(means_of) - 1
    distance = ((observed - means_of) ** 2 / means_of).sum()
    assert distance < freedom + 5 * (2 * max(freedom, 1)) ** 0.5 + 5, (distance, freedom)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.7, 0.95, 1.0])
def test_draws_follow_the_exact_nucleus_distribution(sampler, top_p):
    torch.manual_seed(0)
    logits = torch.randn(40) * 2
    counts = draw_many(logits, top_p, sampler=sampler)
    assert_drawn_from(counts, exact_nucleus(logits, top_p))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("top_p", [0.1, 0.95])
def test_a_nucleus_wider_than_the_candidates_is_drawn_exactly(sampler, top_p):
    """Pins a bias: 16 tries in noisy order seldom met a small nucleus of a flat distribution."""
    torch.manual_seed(1)
    logits = torch.randn(1500 if top_p < 0.5 else 400) * 0.05
    expected = exact_nucleus(logits, top_p)
    assert (expected > 0).sum() > CANDIDATES
    counts = draw_many(logits, top_p, draws=4_000, sampler=sampler, batch=1_000)
    assert_drawn_from(counts, expected)


def test_narrow_and_wide_rows_in_one_batch_do_not_disturb_each_other():
    torch.manual_seed(2)
    logits = torch.cat((torch.randn(3, 1000) * 8, torch.randn(3, 1000) * 0.1))[[0, 3, 1, 4, 2, 5]]
    keys, positions = torch.arange(6) * 77, torch.arange(6)
    together = sample_sorted(logits, keys, positions, 0.95)
    alone = [
        sample_sorted(logits[i : i + 1], keys[i : i + 1], positions[i : i + 1], 0.95).item()
        for i in range(6)
    ]
    assert together.tolist() == alone


def test_the_token_at_which_the_mass_is_reached_is_kept():
    """The mass before a token counts, not the mass with it."""
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    assert (draw_many(logits, 0.7, 4_000) > 0).tolist() == [True, True, False]
    assert (draw_many(logits, 0.5, 4_000) > 0).tolist() == [True, False, False]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_tokens_of_equal_probability_are_in_the_nucleus_together(sampler):
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0, -1.0])
    counts = draw_many(logits, 0.5, sampler=sampler)
    assert_drawn_from(counts, exact_nucleus(logits, 0.5))
    assert (counts > 0).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("device", DEVICES)
def test_temperature_0_takes_the_likeliest_token(device):
    torch.manual_seed(3)
    logits = torch.randn(50, 300, device=device)
    keys = torch.arange(50, device=device)
    drawn = sample(logits, keys, keys, SamplingSettings(temperature=0))
    assert drawn.tolist() == logits.argmax(dim=-1).tolist()


def test_a_low_temperature_sharpens_and_a_high_one_flattens():
    logits = torch.tensor([[2.0, 1.0, 0.0]]).expand(20_000, -1)
    keys = torch.arange(20_000)
    for temperature in (0.5, 2.0):
        settings = SamplingSettings(temperature=temperature, top_p=1.0)
        counts = torch.bincount(sample(logits, keys, keys, settings), minlength=3)
        assert_drawn_from(counts, torch.softmax(logits[0].double() / temperature, dim=0))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [6.0, 0.1])
def test_both_ways_of_sampling_draw_the_same_tokens(device, scale):
    torch.manual_seed(4)
    logits = torch.randn(64, 1500) * scale
    keys, positions = torch.arange(64) * 1234567, torch.arange(64)
    expected = sample_sorted(logits, keys, positions, 0.9)
    drawn = sample_unsorted(logits.to(device), keys.to(device), positions.to(device), 0.9)
    assert drawn.tolist() == expected.tolist()


def test_noise_depends_on_seed_id_position_and_token_only():
    keys = torch.tensor([noise_key(42, "a"), noise_key(42, "b"), noise_key(43, "a")])
    positions = torch.tensor([0, 1, 2])
    whole = gumbel_noise(
        keys[:, None].expand(3, 3).reshape(-1), positions.repeat(3), torch.arange(50)[None]
    )
    assert len(set(whole.flatten().tolist())) > 440, "noise must differ in each of its arguments"
    order = torch.tensor([7, 2, 5])
    tokens = torch.tensor([[33, 4, 12]])
    some = gumbel_noise(keys[[2, 0, 1]], torch.tensor([1, 2, 2]), tokens)
    assert torch.equal(some, whole[order][:, tokens[0]])
    assert noise_key(42, "a") == noise_key(42, "a")
    assert noise_key(1, "1x") != noise_key(11, "x")


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(torch.arange(1000), torch.zeros(1000).long(), torch.arange(1000)[None])
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.02)
    rows = torch.corrcoef(noise[:40]).fill_diagonal_(0).abs().max()
    columns = torch.corrcoef(noise[:, :40].T).fill_diagonal_(0).abs().max()
    assert max(rows, columns) < 0.16  # 5 standard deviations of 1000 independent numbers


def test_a_prompt_draws_the_same_token_in_any_batch():
    torch.manual_seed(6)
    logits = torch.randn(32, 500) * 3
    keys = torch.tensor([noise_key(42, f"prompt {i}") for i in range(32)])
    positions = torch.arange(32) % 5
    settings = SamplingSettings()
    expected = sample(logits, keys, positions, settings)
    order = torch.randperm(32)
    shuffled = sample(logits[order], keys[order], positions[order], settings)
    assert torch.equal(shuffled, expected[order])


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("top_p", 0.0), ("top_p", 1.1), ("max_new_tokens", 0)],
)
def test_settings_out_of_range_are_refused_with_their_value(name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value}"):
        SamplingSettings(**{name: value})
