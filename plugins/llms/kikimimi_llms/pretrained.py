"""The files of a pretrained LLM: its configuration, its tokenizer and its tensors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property, lru_cache, reduce
from pathlib import Path
from struct import unpack_from
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from kikimimi import (
    CONFIG_PATTERNS,
    WEIGHTS_INDEX,
    MissingExtraError,
    WeightsError,
    WeightsFiles,
    find_weights,
    load_state,
    matches_any,
    published_part,
)
from kikimimi_llms.text_config import text_config

PINNED = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+)(/[^@]+)?@(?P<commit>[0-9a-f]{40})", re.ASCII)
"""A Hub id at one commit."""

# Constants that older checkpoints hold beside the parameters: causal masks of GPT-2, rotary frequencies.
_CONSTANTS = ("*.attn.bias", "*.attn.masked_bias", "*.rotary_emb.inv_freq")


_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "tekken.json", "*.tiktoken", "*.spm", "*.gguf")
"""Files that hold a tokenizer's tokens."""
_MOST_LAYERS = 1000
_MISREAD = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What transformers ends with where a file does not hold what it expects."""
# Names of the tokens that tekken.json numbers alone.
_TEKKEN: dict[str, Any] = {
    **{"bos_token": "<s>", "eos_token": "</s>"},
    **{"pad_token": "<pad>", "unk_token": "<unk>"},
}


class Pretrained:
    """A pretrained LLM's files, or those of a speech LLM that it is part of. Code among them is not run.

    Args:
        weights: The source, other than `random`.
        remote_code: Run the tokenizer's own code, of a Hub id pinned to one commit.

    Raises:
        WeightsError: The source does not exist, or holds several GGUF files.
    """

    def __init__(self, weights: str, *, remote_code: bool = False) -> None:
        # The small files say what it is; 16 GB of tensors are fetched when they are read.
        files = find_weights(weights, patterns=CONFIG_PATTERNS)
        assert files is not None
        if "config.json" not in files.files:
            files = find_weights(weights)  # a GGUF file says itself what it is
            assert files is not None
        self.weights = weights
        self.files: WeightsFiles = files
        self.gguf = self._find_gguf()
        self.part = published_part(files, "llm")
        self._remote_code = remote_code

    @cached_property
    def tensors(self) -> WeightsFiles:
        """The files with the tensors among them."""
        files = find_weights(self.weights)
        assert files is not None
        return files

    def config(self) -> Any:
        """Read the configuration.

        Raises:
            WeightsError: It is missing, is of no architecture that transformers has, or holds more than a
                text model, or quantised weights.
        """
        try:
            if self.gguf is not None:
                config = deepcopy(_gguf_config(self.gguf, self.gguf.stat().st_mtime_ns))
            else:
                config = self._config()
        except (ValueError, OSError, RecursionError) as error:
            raise WeightsError(
                f"{self.weights}: its config.json names no architecture of transformers: {error}"
            ) from error
        if (
            config.get_text_config() is not config
            and config.get_text_config().model_type != config.model_type
        ):
            raise WeightsError(
                f"{self.weights}: is a {config.model_type!r} model, which holds more than a text model"
            )
        for name in ("num_hidden_layers", "num_decoder_layers"):
            layers = getattr(config, name, 1)
            if not (isinstance(layers, int) and 1 <= layers <= _MOST_LAYERS):
                raise WeightsError(
                    f"{self.weights}: config.json: {name}: must be between 1 and {_MOST_LAYERS}, "
                    f"not {layers!r}"
                )
        if self.gguf is None and getattr(config, "quantization_config", None):
            method = dict(config.quantization_config).get("quant_method")
            raise WeightsError(
                f"{self.weights}: holds quantised weights ({method}); name the source of the original ones"
            )
        return config

    def _config(self) -> Any:
        if self.part is None:
            return AutoConfig.from_pretrained(self.files.folder, trust_remote_code=False)
        config = text_config(self.part.config)
        # The flag stands in the whole's settings, in the text model's, or in both with different values:
        # where the files hold no head, either may say that there is none.
        if self.files.names("*.safetensors", WEIGHTS_INDEX):
            says = self.part.ties_head or bool(config.tie_word_embeddings)
            config.tie_word_embeddings = says and "lm_head.weight" not in self.tensor_names()
        return config

    def tokenizer(self) -> Any:
        """Read the tokenizer.

        Raises:
            WeightsError: It is missing, or needs code of its own to run.
        """
        if self._remote_code:
            pinned = PINNED.fullmatch(self.weights)
            assert pinned is not None
            return AutoTokenizer.from_pretrained(
                pinned["repo"],
                revision=pinned["commit"],
                code_revision=pinned["commit"],
                trust_remote_code=True,
            )
        if self._needs_code():
            # transformers would pass over the code and read tokenizer.json, which may split text otherwise.
            raise WeightsError(
                f"{self.weights}: its tokenizer is code of its own, which is not run here. llm 'llm_jp' runs "
                "it with remote_code: true, of a Hub id pinned to one commit. To use its tokenizer.json "
                "alone, delete auto_map from tokenizer_config.json in a local copy"
            )
        folder, options = self._source()
        try:
            if self._is_tekken():
                return PreTrainedTokenizerFast.from_pretrained(folder, fix_mistral_regex=True, **_TEKKEN)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
        except (OSError, RecursionError, StrictDataclassError, *_MISREAD) as error:
            if not self.files.names(*_VOCABULARIES):
                raise self._no_tokenizer() from error
            cause = error if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
            raise WeightsError(f"{self.weights}: no tokenizer can be read: {cause}") from error
        # Of some types transformers makes one of nothing, with control tokens alone; bytes need no file.
        if len(tokenizer) < 256 and not self.files.names(*_VOCABULARIES):
            raise self._no_tokenizer()
        return tokenizer

    def _no_tokenizer(self) -> WeightsError:
        return WeightsError(
            f"{self.weights}: holds no tokenizer (tokenizer.json, tokenizer.model, vocab.json, tekken.json). "
            "Name one: llm.tokenizer=ORG/NAME, or a folder"
        )

    def tensor_names(self) -> set[str]:
        """Return the names of the LLM's tensors in the safetensors files, of which no tensor is read."""
        files = self.files if WEIGHTS_INDEX in self.files.files else self.tensors
        part = published_part(files, "llm")
        return files.tensor_names() if part is None else part.tensor_names()

    def _needs_code(self) -> bool:
        name = "tokenizer_config.json"
        settings = self.files.read_json(name) if name in self.files.names() else {}
        own = "AutoTokenizer" in (settings.get("auto_map") or {})
        return own and tokenizer_class_from_name(str(settings.get("tokenizer_class"))) is None

    def _is_tekken(self) -> bool:
        """Whether the tokenizer is Mistral's `tekken.json` alone, which AutoTokenizer gives to another class,
        one that knows no templates, where the package mistral-common is installed.
        """
        return bool(self.files.names("tekken.json")) and not self.files.names("tokenizer.json")

    def load_into(self, model: Any) -> None:
        """Fill a model of transformers.

        Raises:
            WeightsError: The tensors do not fit the architecture.
        """
        tied = _tied_names(model)
        if self.gguf is not None:
            loaded = AutoModelForCausalLM.from_pretrained(self.gguf.parent, gguf_file=self.gguf.name)
            state = loaded.state_dict()
        else:
            part = published_part(self.tensors, "llm")
            state = self._named_as(model, self.tensors.state_dict() if part is None else part.state_dict())
        kept = {name: value for name, value in state.items() if name not in tied}
        load_state(model, kept, source=self.weights, ignore=(*_CONSTANTS, *tied))

    def _named_as(self, model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors by the names that the model gives them."""
        own = model.state_dict()
        # Some checkpoints are of the model without its head: their names lack its place in the whole.
        prefix = f"{model.base_model_prefix}."
        named = {
            prefix + name if name not in own and prefix + name in own else name: value
            for name, value in state.items()
        }
        strange = [name for name in named if name not in own and not matches_any(name, _CONSTANTS)]
        if not strange:
            return named
        kept = {name for name, value in own.items() if not value.is_floating_point()}
        given = {name for name, value in named.items() if not value.is_floating_point()}
        if whole := sorted(name for name in given - kept if not matches_any(name, _CONSTANTS)):
            raise WeightsError(f"{self.weights}: {len(whole)} of whole numbers: {', '.join(whole)}")
        # transformers knows how older checkpoints of an architecture call, split and join their tensors.
        kinds = [value.dtype for value in state.values() if value.is_floating_point()]
        loaded, report = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=state,
            dtype=reduce(torch.promote_types, kinds, kinds[0]),
            output_loading_info=True,
        )
        missing = set(report["missing_keys"])
        if report["mismatched_keys"] or missing & named.keys():
            return named
        # What is lacking or too much is said by the names that the model has.
        found = {name: value for name, value in loaded.state_dict().items() if name not in missing}
        return {**found, **{name: state[name] for name in report["unexpected_keys"] if name in state}}

    def _source(self) -> tuple[Path, dict[str, str]]:
        if self.gguf is not None:
            return self.gguf.parent, {"gguf_file": self.gguf.name}
        return self.files.folder, {}

    def _find_gguf(self) -> Path | None:
        found = self.files.names("*.gguf")
        if not found or self.files.names("*.safetensors"):
            return None
        if len(found) > 1:
            raise WeightsError(
                f"{self.weights}: holds several GGUF files ({', '.join(found)}); name one of them"
            )
        try:
            import gguf  # noqa: F401 - transformers would fail later, with a message less clear
        except ImportError:
            raise MissingExtraError(f"{self.weights} (a GGUF file)", "gguf", "gguf") from None
        return self.files.path(found[0])


def _tied_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names that share the parameter of another, which `named_parameters` lists first."""
    first = {name for name, _ in model.named_parameters()}
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return tuple(sorted(every - first))


@lru_cache(maxsize=1)
def _gguf_config(path: Path, _changed: int) -> Any:
    with _without_vocabulary():
        return AutoConfig.from_pretrained(path.parent, trust_remote_code=False, gguf_file=path.name)


@contextmanager
def _without_vocabulary() -> Iterator[None]:
    """Let transformers pass over the texts of a GGUF file's lists: a configuration needs their number alone.

    Each is an object of its own in gguf's reader, which takes ten seconds for the tokens of a small LLM.
    """
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != gguf.GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
            count, start = int(self._get(orig_offs + 4, np.uint64)[0]), orig_offs + 12
            if kind in self.gguf_scalar_to_np:
                body: Any = np.asarray(self._get(start, self.gguf_scalar_to_np[kind], count))
                items = [body[i : i + 1] for i in range(count)]
            elif kind == gguf.GGUFValueType.STRING:
                order, end = "<" if self.endianess.name == "LITTLE" else ">", start
                for _ in range(count):
                    end += 8 + unpack_from(f"{order}Q", cast(Any, self.data), end)[0]
                body, items = np.asarray(self.data[start:end]), [np.empty(0, np.uint8)] * count
                items = [*items, body]
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            head = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
            # Of a type that transformers leaves as it is: what a long list holds is no setting.
            types: list[Any] = [gguf.GGUFValueType.ARRAY, kind if count <= 1000 else None]
            return 12 + body.nbytes, [*head, *items], list(range(2, 2 + count)), types

    with patch.object(gguf, "GGUFReader", Reader):
        yield
