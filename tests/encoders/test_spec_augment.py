from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking

BANDS = 20
LENGTHS = [40, 7, 1, 100]


def spectrogram(batch: int = len(LENGTHS), frames: int = 100) -> Tensor:
    # No value is a mean, so that a masked one shows.
    return torch.randn(batch, BANDS, frames, generator=torch.Generator().manual_seed(0)) + 3.0


def masking(seed: int = 0, **options: Any) -> SpectrogramMasking:
    torch.manual_seed(seed)
    return SpectrogramMasking(SpecAugment(**{"freq_width": 5, **options}), BANDS).train()


def runs(hidden: Tensor) -> list[int]:
    """Return the lengths of the stretches of true in a vector."""
    padded = torch.nn.functional.pad(hidden.int(), (1, 1)).diff()
    return ((padded == -1).nonzero() - (padded == 1).nonzero()).flatten().tolist()


def test_eval_mode_changes_nothing_and_draws_nothing() -> None:
    module, values = masking().eval(), spectrogram()
    state = torch.get_rng_state()
    assert module(values, LENGTHS) is values
    assert torch.equal(torch.get_rng_state(), state)


def test_masked_values_are_the_clips_mean_and_the_rest_stays() -> None:
    values = spectrogram()
    before = values.clone()
    out = masking()(values, LENGTHS)
    assert torch.equal(values, before)
    changed = out != values
    assert changed.any()
    for clip, length in enumerate(LENGTHS):
        mean = values[clip, :, :length].mean()
        found = out[clip][changed[clip]]
        torch.testing.assert_close(found, mean.expand_as(found))


def test_padding_is_neither_read_nor_changed() -> None:
    values = spectrogram()
    dirty = values.clone()
    for clip, length in enumerate(LENGTHS):
        dirty[clip, :, length:] = torch.nan
    torch.manual_seed(5)
    expected = masking(5)(values, LENGTHS)
    found = masking(5)(dirty, LENGTHS)
    for clip, length in enumerate(LENGTHS):
        assert torch.equal(found[clip, :, :length], expected[clip, :, :length])
        assert found[clip, :, length:].isnan().all()
        assert torch.equal(expected[clip, :, length:], values[clip, :, length:])


def test_frequency_masks_are_whole_bands_of_every_width_up_to_the_widest() -> None:
    values = spectrogram(2000, 6)
    out = masking(num_freq_masks=1, num_time_masks=0)(values, [6] * 2000)
    hidden = out != values
    assert torch.equal(hidden.any(2), hidden.all(2))
    bands = hidden.all(2)
    widths = bands.sum(1)
    assert all(len(runs(clip)) <= 1 for clip in bands[:200])
    shares = widths.bincount(minlength=6) / 2000
    # Uniform over 0 to 5: a sixth each.
    torch.testing.assert_close(shares, torch.full((6,), 1 / 6), rtol=0, atol=0.03)
    assert bands[:, 0].any()
    assert bands[:, -1].any()


def test_time_masks_keep_to_the_fraction_of_the_clips_own_length() -> None:
    lengths = [100, 50, 10, 4] * 500
    values = spectrogram(2000)
    options: dict[str, Any] = {
        "num_freq_masks": 0,
        "num_time_masks": 1,
        "time_width": 15,
        "max_time_fraction": 0.2,
    }
    hidden = masking(**options)(values, lengths) != values
    assert torch.equal(hidden.any(1), hidden.all(1))
    widths = hidden.all(1).sum(1).view(500, 4)
    # 15 frames at most, a fifth of 50, of 10, and of 4: less than one.
    assert widths.amax(0).tolist() == [15, 10, 2, 0]
    assert widths[:, :3].amin(0).tolist() == [0, 0, 0]
    # The stretch may lie anywhere in the clip, to its very ends.
    assert hidden[1::4, 0, 0].any()
    assert hidden[1::4, 0, 49].any()


def test_each_clip_of_a_batch_has_masks_of_its_own() -> None:
    values = spectrogram(1).expand(8, -1, -1)
    hidden = masking()(values, [100] * 8) != values
    assert len({tuple(clip.flatten().tolist()) for clip in hidden}) > 4


def test_the_number_of_masks() -> None:
    values = spectrogram(300)
    hidden = masking(num_freq_masks=3, freq_width=1, num_time_masks=0)(values, [100] * 300) != values
    counts = hidden.all(2).sum(1)
    assert int(counts.max()) == 3
    torch.testing.assert_close(counts.float().mean(), torch.tensor(3 * 0.5), rtol=0, atol=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_freq_masks": -1}, "num_freq_masks: must be at least 0, not -1"),
        ({"num_time_masks": -1}, "num_time_masks: must be at least 0, not -1"),
        ({"freq_width": 0}, "freq_width: must be at least 1, not 0"),
        ({"time_width": 0}, "time_width: must be at least 1, not 0"),
        ({"num_freq_masks": 0, "num_time_masks": 0}, "are both 0; leave out spec_augment instead"),
        ({"max_time_fraction": 0.0}, "max_time_fraction: must be above 0 and at most 1, not 0.0"),
        ({"max_time_fraction": 1.5}, "max_time_fraction: must be above 0 and at most 1, not 1.5"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecAugment(**options)


def test_refuses_masks_wider_than_the_spectrogram() -> None:
    message = "spec_augment.freq_width must be at most 20, the encoder's mel bands, not 21"
    with pytest.raises(ValueError, match=message):
        masking(freq_width=21)
    masking(freq_width=20)
    masking(freq_width=21, num_freq_masks=0)
