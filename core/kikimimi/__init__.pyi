"""Every public name, and where it lives; imported when first used."""

from .console.words import (
    check_choice as check_choice,
    counted as counted,
    listing as listing,
    nearest as nearest,
)
from .contracts.answer import Answer as Answer
from .contracts.batch import Batch as Batch, View as View
from .contracts.clip_task import (
    ClipTask as ClipTask,
    ClipTaskConfig as ClipTaskConfig,
)
from .contracts.component import (
    LLM as LLM,
    Adapter as Adapter,
    AdapterContext as AdapterContext,
    AdapterOutput as AdapterOutput,
    Component as Component,
    ComponentConfig as ComponentConfig,
    Encoder as Encoder,
    FrameLabels as FrameLabels,
    LLMContext as LLMContext,
    Padded as Padded,
    Rendered as Rendered,
    Span as Span,
    Stretch as Stretch,
    Units as Units,
)
from .contracts.conversation import (
    AudioPart as AudioPart,
    Conversation as Conversation,
    Message as Message,
    Role as Role,
    TextPart as TextPart,
    clip_mark as clip_mark,
    parse_conversation as parse_conversation,
)
from .contracts.generation import Generation as Generation
from .contracts.judge import (
    Judge as Judge,
    JudgeConfig as JudgeConfig,
    JudgePrompt as JudgePrompt,
    JudgeReply as JudgeReply,
)
from .contracts.labelled_clip import (
    LabelledClip as LabelledClip,
    check_text as check_text,
    is_number as is_number,
    missing_field as missing_field,
    read_meta as read_meta,
)
from .contracts.layers import (
    Combine as Combine,
    LayerCombiner as LayerCombiner,
    Layers as Layers,
    Taps as Taps,
    check_layers as check_layers,
    check_taps as check_taps,
    tiny_layers as tiny_layers,
)
from .contracts.layout import (
    BadRow as BadRow,
    Clip as Clip,
    ExampleCorpus as ExampleCorpus,
    Layout as Layout,
    LayoutConfig as LayoutConfig,
    Row as Row,
    Segment as Segment,
    as_on_disk as as_on_disk,
    clip_name as clip_name,
)
from .contracts.metric import (
    Details as Details,
    Metric as Metric,
    MetricConfig as MetricConfig,
    MetricItem as MetricItem,
    Score as Score,
)
from .contracts.normaliser import Normaliser as Normaliser, normaliser_hash as normaliser_hash
from .contracts.objective import (
    Loss as Loss,
    Objective as Objective,
    ObjectiveConfig as ObjectiveConfig,
    SpeechModel as SpeechModel,
    Step as Step,
    Turns as Turns,
)
from .contracts.options import (
    Distinct as Distinct,
    Fraction as Fraction,
    LayerCount as LayerCount,
    NonNegativeFloat as NonNegativeFloat,
    NonNegativeInt as NonNegativeInt,
    OddInt as OddInt,
    Options as Options,
    PositiveFloat as PositiveFloat,
    PositiveInt as PositiveInt,
    Probability as Probability,
    Rule as Rule,
    Text as Text,
)
from .contracts.precision import full_precision as full_precision
from .contracts.prompt_bank import (
    BankConfig as BankConfig,
    BankTask as BankTask,
    PromptBank as PromptBank,
    RequestConfig as RequestConfig,
    RequestTask as RequestTask,
    read_prompt_bank as read_prompt_bank,
)
from .contracts.recogniser import Recogniser as Recogniser, RecogniserConfig as RecogniserConfig
from .contracts.running_batch import RunningBatch as RunningBatch
from .contracts.scored import Scored as Scored
from .contracts.task import Task as Task, TaskConfig as TaskConfig
from .contracts.vocabulary import (
    BytesVocabulary as BytesVocabulary,
    CharacterVocabulary as CharacterVocabulary,
    TokenizerVocabulary as TokenizerVocabulary,
    Vocabulary as Vocabulary,
)
from .contracts.voice import Voice as Voice, VoiceConfig as VoiceConfig
from .data.audio import encode_audio as encode_audio
from .data.shards.tar import BrokenTarError as BrokenTarError, read_entries as read_entries
from .data.table import (
    TABLE_SUFFIXES as TABLE_SUFFIXES,
    TableRow as TableRow,
    read_table as read_table,
    table_kind as table_kind,
)
from .errors import (
    AudioError as AudioError,
    DataError as DataError,
    KikimimiError as KikimimiError,
    MissingExtraError as MissingExtraError,
    PluginError as PluginError,
    RecipeError as RecipeError,
    RequestError as RequestError,
    WeightsError as WeightsError,
)
from .evaluation.error_rate import ErrorRate as ErrorRate
from .evaluation.judging import Judging as Judging
from .files.reading import paths_in as paths_in, read_bytes as read_bytes
from .files.yaml_text import read_yaml as read_yaml
from .inference.in_writing import WrittenAnswer as WrittenAnswer, WrittenLLM as WrittenLLM
from .inference.load import load_model as load_model
from .inference.transcriber import Transcriber as Transcriber
from .model.attention import (
    install_packed_attention as install_packed_attention,
    packed_arguments as packed_arguments,
)
from .recipe.chosen import Chosen as Chosen
from .recipe.resolve import read_options as read_options
from .run.folder import RunFolder as RunFolder
from .text.chat_template import (
    ChatTemplate as ChatTemplate,
    flatten_message as flatten_message,
)
from .text.guarded_tokenizer import GuardedTokenizer as GuardedTokenizer
from .text.templates import (
    CHAT_TEMPLATES as CHAT_TEMPLATES,
    find_chat_template as find_chat_template,
)
from .weights.ctranslate2 import CTranslate2File as CTranslate2File
from .weights.files import (
    CONFIG_PATTERNS as CONFIG_PATTERNS,
    FETCHED_PATTERNS as FETCHED_PATTERNS,
    WEIGHTS_INDEX as WEIGHTS_INDEX,
    WeightsFiles as WeightsFiles,
    load_state as load_state,
    matches_any as matches_any,
)
from .weights.find import find_weights as find_weights
from .weights.speech_llms import (
    PublishedPart as PublishedPart,
    published_part as published_part,
)

__version__: str
