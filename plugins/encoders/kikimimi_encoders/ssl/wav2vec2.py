"""wav2vec 2.0."""

from dataclasses import dataclass

from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2EncoderLayer,
    Wav2Vec2EncoderLayerStableLayerNorm,
    Wav2Vec2FeatureEncoder,
    Wav2Vec2FeatureProjection,
)

from kikimimi_encoders.ssl.family import SSLConfig, SSLEncoder
from kikimimi_encoders.ssl.model import Family, by_norm


class Wav2Vec2Encoder(SSLEncoder):
    """wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477), equal to transformers' `Wav2Vec2Model`."""

    @dataclass(kw_only=True, frozen=True)
    class Config(SSLConfig):
        """Options of the `wav2vec2` encoder."""

        weights: str = "facebook/wav2vec2-base"
        """A wav2vec 2.0 of transformers: a Hub id, a folder, `package:...`; or `random`."""

    family = Family(
        model_type="wav2vec2",
        config_class=Wav2Vec2Config,
        convolutions=Wav2Vec2FeatureEncoder,
        projection=Wav2Vec2FeatureProjection,
        layer=by_norm(Wav2Vec2EncoderLayer, Wav2Vec2EncoderLayerStableLayerNorm),
        conv_bias=True,
        normalises=lambda config: True,
    )
