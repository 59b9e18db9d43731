"""Sampling against the exact nucleus distribution, and noise that depends on the prompt alone."""

import pytest
import torch
from engine.compiled_operations import compile_operations
from engine.sampler import SamplingSettings, gumbel_noise, noise_key, sample
from user_error import UserError

DRAWS = 40_000
SAMPLERS = {
    "plain": sample,
    "compiled": lambda *arguments: compile_operations(64, 1, arguments[0].dtype).sample(*arguments),
}


def exact_nucleus(logits, top_p):
    """Probabilities after nucleus sampling, by the definition and in float64: [vocabulary]."""
    probabilities = torch.softmax(logits.double(), dim=0)
    kept = torch.zeros_like(probabilities)
    for token, probability in enumerate(probabilities):
        before = probabilities[probabilities > probability].sum()
        kept[token] = probability if before <= top_p else 0
    return kept / kept.sum()


def draw_many(logits, top_p, sampler, draws=DRAWS, temperature=1.0, batch=4_000):
    """Counts of the drawn tokens, each draw with another prompt's noise: [vocabulary]."""
    counts = torch.zeros(len(logits), dtype=torch.int64)
    generator = torch.Generator().manual_seed(5)
    keys = torch.randint(-(2**63), 2**63 - 1, (draws,), generator=generator)
    for some in keys.split(batch):
        rows = logits.repeat(len(some), 1)
        tokens = SAMPLERS[sampler](rows, some, torch.zeros_like(some), temperature, top_p)
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
    counts = draw_many(logits, top_p, sampler)
    assert_drawn_from(counts, exact_nucleus(logits, top_p))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("top_p", [0.1, 0.95])
def test_a_wide_nucleus_is_drawn_exactly(sampler, top_p):
    """Pins a bias: 16 tries in noisy order seldom met a small nucleus of a flat distribution."""
    torch.manual_seed(1)
    logits = torch.randn(1500 if top_p < 0.5 else 400) * 0.05
    expected = exact_nucleus(logits, top_p)
    assert (expected > 0).sum() > 128
    counts = draw_many(logits, top_p, sampler, draws=4_000, batch=1_000)
    assert_drawn_from(counts, expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("broken", [slice(None), slice(3, None), slice(0, 1)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_no_numbers_still_give_a_token(broken, value, sampler):
    logits = torch.randn(600)
    logits[broken] = value
    assert draw_many(logits, 0.9, sampler, draws=20).sum() == 20


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_token_at_which_the_mass_is_reached_is_kept(sampler):
    """The mass before a token counts, not the mass with it."""
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    assert (draw_many(logits, 0.7, sampler, 4_000) > 0).tolist() == [True, True, False]
    assert (draw_many(logits, 0.5, sampler, 4_000) > 0).tolist() == [True, False, False]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_tokens_of_equal_probability_are_in_the_nucleus_together(sampler):
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0, -1.0])
    counts = draw_many(logits, 0.5, sampler)
    assert_drawn_from(counts, exact_nucleus(logits, 0.5))
    assert (counts > 0).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_low_temperature_sharpens_and_a_high_one_flattens(sampler, temperature):
    logits = torch.tensor([2.0, 1.0, 0.0])
    counts = draw_many(logits, 1.0, sampler, 20_000, temperature)
    assert_drawn_from(counts, torch.softmax(logits.double() / temperature, dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [3, 512, 1500])
@pytest.mark.parametrize("scale", [30.0, 6.0, 0.1, 0.0])
def test_both_ways_of_sampling_draw_the_same_tokens(scale, vocabulary, dtype):
    torch.manual_seed(4)
    logits = (torch.randn(64, vocabulary) * scale).to(dtype)
    logits[::7, 1] = -torch.inf
    keys, positions = torch.arange(64) * 1234567, torch.arange(64)
    for top_p in (0.3, 0.9, 1.0):
        arguments = logits, keys, positions, 0.7, top_p
        plain, compiled = (draw(*arguments) for draw in SAMPLERS.values())
        assert plain.tolist() == compiled.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_draws_the_same_tokens():
    torch.manual_seed(4)
    logits, keys, positions = torch.randn(64, 1500) * 6, torch.arange(64) * 77, torch.arange(64)
    expected = sample(logits, keys, positions, 1.0, 0.9)
    drawn = sample(logits.cuda(), keys.cuda(), positions.cuda(), 1.0, 0.9)
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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_prompt_draws_the_same_token_in_any_batch(sampler):
    torch.manual_seed(6)
    spread = torch.tensor([3.0, 0.1]).repeat(16)  # narrow and wide nuclei side by side
    logits = torch.randn(32, 500) * spread[:, None]
    keys = torch.tensor([noise_key(42, f"prompt {i}") for i in range(32)])
    positions = torch.arange(32) % 5
    draw = SAMPLERS[sampler]
    expected = draw(logits, keys, positions, 0.7, 0.95)
    order = torch.randperm(32)
    shuffled = draw(logits[order], keys[order], positions[order], 0.7, 0.95)
    assert torch.equal(shuffled, expected[order])
    for row in range(32):
        alone = slice(row, row + 1)
        drawn = draw(logits[alone], keys[alone], positions[alone], 0.7, 0.95)
        assert drawn == expected[alone]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("max_new_tokens", 0),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(name, value):
    with pytest.raises(UserError, match=rf"{name} is {value}"):
        SamplingSettings(**{name: value})
