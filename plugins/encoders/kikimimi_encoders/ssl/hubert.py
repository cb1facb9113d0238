"""HuBERT."""

from dataclasses import dataclass

from transformers import HubertConfig
from transformers.models.hubert.modeling_hubert import (
    HubertEncoderLayer,
    HubertEncoderLayerStableLayerNorm,
    HubertFeatureEncoder,
    HubertFeatureProjection,
)

from kikimimi_encoders.ssl.family import SSLConfig, SSLEncoder
from kikimimi_encoders.ssl.model import Family, by_norm


class HubertEncoder(SSLEncoder):
    """HuBERT (Hsu et al. 2021, arXiv 2106.07447), equal to transformers' `HubertModel`."""

    @dataclass(kw_only=True, frozen=True)
    class Config(SSLConfig):
        """Options of the `hubert` encoder."""

        weights: str = "facebook/hubert-base-ls960"
        """A HuBERT of transformers: a Hub id, a folder, `package:...`; or `random`."""

    family = Family(
        model_type="hubert",
        config_class=HubertConfig,
        convolutions=HubertFeatureEncoder,
        projection=HubertFeatureProjection,
        layer=by_norm(HubertEncoderLayer, HubertEncoderLayerStableLayerNorm),
        conv_bias=True,
        normalises=lambda config: True,
    )
