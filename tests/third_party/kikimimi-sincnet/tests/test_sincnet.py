from __future__ import annotations

import pytest
import torch
from kikimimi_sincnet import SAMPLE_RATE, SincNetEncoder

from kikimimi import Padded
from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(
    SincNetEncoder, default=SincNetEncoder.Config(), short=SincNetEncoder.Config(kernel_size=101)
)
def test_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("band", [20, 30, 39])
def test_a_band_lets_through_what_is_in_it_as_it_is(band: int) -> None:
    encoder = SincNetEncoder(SincNetEncoder.Config(dim=8, num_layers=1, num_filters=40)).requires_grad_(False)
    filters = encoder.filters
    hertz = 1000 * float(filters.low[band] + filters.width[band] / 2) + 75
    tone = torch.sin(2 * torch.pi * hertz * torch.arange(SAMPLE_RATE) / SAMPLE_RATE)
    energy = encoder.log_energy(Padded.stack([tone]))[0, 10].exp()  # (filters)
    assert int(energy.argmax()) == band
    assert float(energy[band]) == pytest.approx(0.5, rel=0.05)  # half the square of the amplitude
    assert float(energy[: band - 5].max()) < 1e-3


def test_the_width_of_a_filter_is_odd() -> None:
    with pytest.raises(ValueError, match="kernel_size: must be at least 1 and odd, not 250"):
        SincNetEncoder.Config(kernel_size=250)
