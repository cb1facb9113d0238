"""Whether a stage encodes its clips ahead of its training, and what names the output that is kept."""

import hashlib
import json
import operator
from collections.abc import Iterator, Sequence

import torch

from kikimimi.console.words import counted, size
from kikimimi.contracts.component import Encoder
from kikimimi.contracts.precision import autocast
from kikimimi.data.corpus import Corpus
from kikimimi.data.features import FeatureCache
from kikimimi.data.order.plan import Plan
from kikimimi.files.cache import cache_folder
from kikimimi.model.assembly import pretrained_encoder
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import downstream_names, trained_names
from kikimimi.recipe import Chosen, Recipe, Stage
from kikimimi.recipe.chosen import plugins_in
from kikimimi.run.lock import plugin_lock
from kikimimi.run.rank import global_rank, local_rank, say_once
from kikimimi.run.source import package_digest


def encode_ahead(
    recipe: Recipe,
    stage: Stage,
    name: str,
    model: SpeechLM,
    corpora: list[Corpus],
    held_out: list[Corpus],
    plan: Plan,
) -> FeatureCache | None:
    """Encode every clip once, if the encoder never changes, clips are heard again, and disk allows.

    Args:
        recipe: The recipe at this stage.
        stage: What trains.
        name: The stage's name.
        model: The stage's model; its encoder may not be there yet, but for its shapes.
        corpora: What is trained on.
        held_out: What is validated on.
        plan: Which clips are heard how often.

    Returns:
        The encoder's output, or None where clips are to be encoded whenever they are heard.
    """
    if not recipe.trainer.cache_features or model.encoder.augmentation is not None:
        return None
    # A later stage may freeze what this run trained, which no fingerprint of its sources would tell.
    trained = {n for n in trained_names(model, recipe) if n.startswith("encoder.")}
    if trained and not trained <= downstream_names(model):
        return None
    lengths = [float(corpus.shards.seconds[corpus.used].sum()) for corpus in corpora]
    passes = plan.passes(stage.num_steps * stage.batch.global_)
    seconds = sum(lengths)
    if seconds == 0 or sum(map(operator.mul, lengths, passes)) < 2 * seconds:
        return None
    if trained:
        say_once(
            f"stage {name}: the weights of the encoder's sum of layers train with the adapter, so that its "
            "output changes: encoding in every epoch"
        )
        return None
    forecast = _forecast_bytes(
        [*corpora, *held_out], model.encoder, 4 if recipe.trainer.precision == "fp32" else 2
    )
    if forecast > recipe.trainer.cache_limit_gb * 1e9:
        say_once(
            f"stage {name}: encoder output would take {size(forecast)} on disk, above "
            f"trainer.cache_limit_gb={recipe.trainer.cache_limit_gb:g}: encoding in every epoch instead"
        )
        return None
    identity = {
        **plugin_lock(recipe.encoder),
        "config": repr(recipe.encoder.config),
        "lora": repr(recipe.encoder.lora),
        "dtype": recipe.encoder.dtype,
        "precision": recipe.trainer.precision,
        # A version does not tell what someone is just writing: a front end, or an encoder of their own.
        "code": {chosen.name: package_digest(chosen.component.__module__) for chosen in _encoders(recipe)},
    }
    if any(f"encoder.{name}" not in model.pretrained for name, _ in model.encoder.named_parameters()):
        identity["seed"] = recipe.seed  # some of its weights were drawn at random
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    cache = FeatureCache([*corpora, *held_out], fingerprint, max_seconds=model.encoder.max_seconds)
    device = _device(recipe)
    encoded = 0
    cache.discard_damaged()
    if not cache.is_filled():
        encoder = pretrained_encoder(recipe) if "encoder" in model.deferred else model.encoder
        encoder.to(device)
        encoded = cache.fill(
            encoder,
            device=device,
            precision=autocast(recipe.trainer.precision, device),
            rank=global_rank(),
            world_size=recipe.trainer.devices * recipe.trainer.nodes,
        )
    if encoded:
        say_once(
            f"{counted(encoded, 'record')} encoded; {size(forecast)} kept in {cache_folder('features')} for "
            "later epochs and runs"
        )
    return cache


def _encoders(recipe: Recipe) -> Iterator[Chosen]:
    """Yield the encoder, and those that it is made of."""
    yield recipe.encoder
    for _, _, inner in plugins_in(recipe.encoder.config):
        if isinstance(inner, Chosen):
            yield inner


def _forecast_bytes(corpora: Sequence[Corpus], encoder: Encoder, bytes_per_value: int) -> int:
    """Return how much disk the cache of these corpora will take [bytes]."""
    seconds = sum(float(corpus.shards.seconds.sum()) for corpus in corpora)
    # Where an encoder keeps the silence of its window, the shortest clip has as many frames as any.
    clips = sum(len(corpus.shards.clip_seconds) for corpus in corpora)
    frames = max(seconds * encoder.frame_rate, clips * encoder.num_frames(1))
    return int(frames * encoder.dim * bytes_per_value)


def _device(recipe: Recipe) -> torch.device:
    gpu = recipe.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", local_rank()) if gpu else torch.device("cpu")
