"""Every setting, typed: `config/dataset.yaml`, `config/training.yaml`, `config/service.yaml`.

The files carry the comments (unit, source) that a user reads; the defaults here are the same
values, and a test holds the two together. Unknown keys, wrong types and impossible combinations
are refused with the file, the key and the remedy.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from xtts_core.errors import SettingsError
from xtts_core.store import project_root

SAMPLE_RATE_HZ = 22_050
"""The rate of clips and of conditioning audio in XTTS."""
NATIVE_RATE_HZ = 24_000
"""The rate at which XTTS speaks."""
MIN_TEMPERATURE = 0.01
"""Below it logits divided by the temperature overflow, and nothing can be drawn from NaN."""
MAX_CLIP_SAMPLES = 255_995
"""The longest clip XTTS trains on, 11.61 s (coqui-tts, train_gpt_xtts.py: max_wav_length)."""

Strings = Annotated[tuple[str, ...], Strict(False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- config/dataset.yaml ----------------------------------------------------------------------


class DownloadSettings(_Section):
    format: str = "bestaudio/best"
    retries: int = Field(3, ge=0)
    retry_delay_s: float = Field(5.0, ge=0)
    busy_delay_s: float = Field(60.0, ge=0)
    max_delay_s: float = Field(900.0, ge=0)
    subtitle_languages: Strings = ("pt", "pt-BR", "pt-orig")
    subtitle_format: Literal["vtt"] = "vtt"
    cookies_file: str | None = None
    proxy: str | None = Field(None, pattern=r"^((https?|socks4a?|socks5h?)://\S+)?$")


class AudioSettings(_Section):
    sample_rate_hz: Literal[22_050] = 22_050
    channels: Literal[1] = 1
    bits_per_sample: Literal[16] = 16
    min_duration_s: float = Field(1.0, gt=0)
    max_duration_s: float = Field(43_200.0, gt=0)
    silence_floor_dbfs: float = Field(-60.0, lt=0)
    max_clipping_ratio: float = Field(0.001, ge=0, le=1)
    min_loudness_lufs: float = Field(-45.0, ge=-70)
    max_loudness_lufs: float = Field(-6.0, le=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError("min_duration_s must be below max_duration_s")
        if self.min_loudness_lufs >= self.max_loudness_lufs:
            raise ValueError("min_loudness_lufs must be below max_loudness_lufs")
        return self


class VadSettings(_Section):
    enabled: bool = True
    engine: Literal["silero", "webrtc"] = "silero"
    threshold: float = Field(0.5, ge=0.05, le=0.95)
    aggressiveness: int = Field(2, ge=0, le=3)
    floor_dbfs: float = Field(-40.0, lt=0)
    frame_samples: int = Field(512, ge=128)
    chunk_s: float = Field(10.0, gt=0)
    min_silence_s: float = Field(0.3, gt=0)


class SegmentationSettings(_Section):
    min_s: float = Field(7.0, gt=0)
    target_s: float = Field(10.0, gt=0)
    max_s: float = Field(11.6, gt=0, le=MAX_CLIP_SAMPLES / SAMPLE_RATE_HZ)
    short_min_s: float = Field(1.0, ge=0.5)
    short_share: float = Field(0.2, ge=0, le=1)
    forced_overlap_s: float = Field(0.5, ge=0)
    margin_before_s: float = Field(0.1, ge=0)
    margin_after_s: float = Field(0.25, ge=0)
    fade_s: float = Field(0.05, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.short_min_s <= self.min_s <= self.target_s <= self.max_s:
            raise ValueError("short_min_s <= min_s <= target_s <= max_s must hold")
        if self.fade_s > min(self.margin_before_s, self.margin_after_s):
            raise ValueError(
                "fade_s must not be longer than margin_before_s or margin_after_s, "
                "or the fade would touch speech"
            )
        if self.margin_before_s + self.margin_after_s >= self.short_min_s:
            raise ValueError("the two margins together must be shorter than short_min_s")
        if self.forced_overlap_s >= self.min_s:
            raise ValueError("forced_overlap_s must be shorter than min_s")
        return self


class LoudnessSettings(_Section):
    method: Literal["rms", "loudnorm", "off"] = "rms"
    rms_dbfs: float = Field(-20.0, lt=0)
    loudnorm_lufs: float = Field(-23.0, lt=0)
    peak_limit_dbfs: float = Field(-1.0, le=0)


class SpeakerSettings(_Section):
    engine: Literal["resemblyzer", "off"] = "resemblyzer"
    threads: int = Field(0, ge=0)


class TranscriptionSettings(_Section):
    engine: Literal["faster-whisper", "openai-whisper"] = "faster-whisper"
    whisper_model: str = "base"
    whisper_hp_model: str = "medium"
    model_dir: str | None = None
    beam_size: int = Field(5, ge=1)
    temperature: float = Field(0.0, ge=0, le=1)
    oov_threshold: float = Field(0.15, ge=0, le=1)
    use_subtitles: bool = True
    use_auto_subtitles: bool = False
    verify_subtitles: bool = True
    max_disagreement: float = Field(0.13, gt=0, le=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class TextSettings(_Section):
    expand_numbers: Literal[True] = True
    lowercase: Literal[True] = True
    normalise_whitespace: Literal[True] = True
    min_words: int = Field(3, ge=1)
    max_words: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError("min_words must not exceed max_words")
        return self


class FilterSettings(_Section):
    max_text_tokens: int = Field(200, ge=1, le=200)
    min_duration_s: float = Field(0.5, ge=0.5)
    min_characters_per_s: float | None = Field(5.0, ge=0)
    max_characters_per_s: float | None = Field(22.0, gt=0)
    max_text_copies: int = Field(3, ge=1)
    reject_forced_cuts: bool = True
    max_clipping_ratio: float = Field(0.001, ge=0, le=1)
    min_snr_db: float = 5.0
    min_change_similarity: float | None = Field(0.66, le=1)
    min_speaker_similarity: float | None = Field(0.83, ge=-1, le=1)
    max_music_ratio: float | None = Field(0.5, ge=0, le=1)
    min_bandwidth_hz: float | None = Field(4500.0, ge=0, le=SAMPLE_RATE_HZ / 2)
    max_reverberation_s: float | None = Field(0.6, gt=0)


class SplitSettings(_Section):
    train_share: float = Field(0.9, gt=0, lt=1)
    val_share: float = Field(0.1, gt=0, lt=1)
    seed: int = 42

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train_share + self.val_share - 1) > 1e-9:
            raise ValueError("train_share and val_share must add up to 1")
        return self


class DatasetSettings(_Section):
    """`config/dataset.yaml`."""

    languages: Strings = ("pt",)
    download: DownloadSettings = DownloadSettings()
    audio: AudioSettings = AudioSettings()
    vad: VadSettings = VadSettings()
    segmentation: SegmentationSettings = SegmentationSettings()
    loudness: LoudnessSettings = LoudnessSettings()
    speakers: SpeakerSettings = SpeakerSettings()
    transcription: TranscriptionSettings = TranscriptionSettings()
    text: TextSettings = TextSettings()
    filters: FilterSettings = FilterSettings()
    split: SplitSettings = SplitSettings()


# --- config/training.yaml ---------------------------------------------------------------------


class BaseModelSettings(_Section):
    name: str = Field("xtts_v2", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    mirror: str | None = None
    offline_dir: str | None = None
    checkpoint: str | None = None


class LoraSettings(_Section):
    enabled: bool = True
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: Strings = ("c_attn", "c_proj", "c_fc")
    train_heads: bool = False
    train_embeddings: bool = False


class OptimisationSettings(_Section):
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    batch_size: int = Field(4, ge=1)
    gradient_accumulation: int = Field(2, ge=1)
    conditioning: Literal["same_clip_masked", "other_clip"] = "same_clip_masked"
    epochs: int = Field(50, ge=1)
    learning_rate_full: float = Field(1e-5, gt=0)
    learning_rate_lora: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(100, ge=0)
    schedule: Literal["cosine"] = "cosine"
    weight_decay: float = Field(0.01, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    text_loss_weight: float = Field(0.01, ge=0)
    audio_loss_weight: float = Field(1.0, gt=0)
    seed: int = 42


class AugmentationSettings(_Section):
    share: float = Field(0.0, ge=0, le=1)
    max_pitch_semitones: float = Field(0.0, ge=0, le=4)
    max_stretch: float = Field(0.0, ge=0, le=0.25)

    @model_validator(mode="after")
    def _something_changes(self) -> Self:
        if self.share and not (self.max_pitch_semitones or self.max_stretch):
            raise ValueError(
                "share says that clips are changed, and max_stretch and max_pitch_semitones that "
                "nothing is; set one of them, or share to 0"
            )
        return self


class ForgettingSettings(_Section):
    sentences: int = Field(6, ge=0, le=8)
    max_loss_rise: float = Field(0.5, gt=0)


class CheckpointSettings(_Section):
    save_every_minutes: float = Field(10.0, ge=0)
    keep: int = Field(3, ge=1)
    patience_epochs: int = Field(10, ge=1)


class LoggingSettings(_Section):
    log_every_steps: int = Field(10, ge=1)
    sample_every_epochs: int = Field(5, ge=1)
    samples: int = Field(3, ge=0)


class EvaluationSettings(_Section):
    max_sentences_per_video: int = Field(3, ge=1)
    max_loss_ratio: float = Field(1.0, gt=0)


class TrainingSettings(_Section):
    """`config/training.yaml`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    base_model: BaseModelSettings = BaseModelSettings()
    lora: LoraSettings = LoraSettings()
    optimisation: OptimisationSettings = OptimisationSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    forgetting: ForgettingSettings = ForgettingSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    logging: LoggingSettings = LoggingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _every_process_has_a_batch(self) -> Self:
        batches = self.optimisation.gradient_accumulation
        if self.processes != "auto" and self.processes > batches:
            raise ValueError(
                f"processes ({self.processes}) share the batches of a step, and "
                f"optimisation.gradient_accumulation gives {batches}; raise it or use fewer"
            )
        return self


# --- config/service.yaml ----------------------------------------------------------------------


class ServerSettings(_Section):
    max_concurrent_calls: int = Field(8, ge=1)
    max_waiting_calls: int = Field(32, ge=0)
    drain_s: float = Field(30.0, ge=0)
    max_unread_s: float = Field(60.0, gt=0)
    max_message_bytes: int = Field(16 * 1024 * 1024, ge=1024)


class EngineSettings(_Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0)
    weights: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    max_batch: int = Field(8, ge=1)
    temperature: float = Field(0.75, ge=MIN_TEMPERATURE, le=2)
    top_k: int = Field(50, ge=1)
    top_p: float = Field(0.85, gt=0, le=1)
    repetition_penalty: float = Field(10.0, ge=1)
    penalise_prefix: bool = True
    runaway_retries: int = Field(1, ge=0, le=5)
    first_chunk_tokens: int = Field(8, ge=1)
    stream_chunk_tokens: int = Field(20, ge=1)


class VoiceSettings(_Section):
    min_reference_s: float = Field(3.0, gt=0)
    max_reference_s: float = Field(30.0, gt=0)
    latents_in_memory: int = Field(256, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_reference_s > self.max_reference_s:
            raise ValueError("min_reference_s must not exceed max_reference_s")
        return self


class ReloadSettings(_Section):
    poll_s: float = Field(2.0, gt=0)
    policy: Literal["keep-serving", "free-first"] = "keep-serving"
    free_first_wait_s: float = Field(60.0, ge=0)
    warmup_text: str = "Olá, esta é uma frase de teste."
    warmup_language: str = "pt"

    @field_validator("warmup_text")
    @classmethod
    def _something_to_say(cls, text: str) -> str:
        if not any(character.isalnum() for character in text):
            raise ValueError("there is nothing to say")
        return text

    @field_validator("warmup_language")
    @classmethod
    def _can_be_read_out(cls, language: str) -> str:
        from xtts_core.text import languages

        if language.lower().split("-")[0] not in languages():
            raise ValueError(f"{language!r} is none of {', '.join(languages())}")
        return language


class LimitSettings(_Section):
    max_text_characters: int = Field(2_000, ge=1)
    max_spoken_characters: int = Field(10_000, ge=1)
    max_voices: int = Field(1_000, ge=1)


class ServiceLogSettings(_Section):
    format: Literal["text", "json"] = "text"
    texts: bool = False


class ServiceSettings(_Section):
    """`config/service.yaml`."""

    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    voices: VoiceSettings = VoiceSettings()
    reload: ReloadSettings = ReloadSettings()
    limits: LimitSettings = LimitSettings()
    logging: ServiceLogSettings = ServiceLogSettings()


# --- reading ----------------------------------------------------------------------------------

S = TypeVar("S", DatasetSettings, TrainingSettings, ServiceSettings)

_FILES: Mapping[type[BaseModel], str] = {
    DatasetSettings: "dataset.yaml",
    TrainingSettings: "training.yaml",
    ServiceSettings: "service.yaml",
}


class _Yaml12Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number, which YAML 1.1 (PyYAML) takes for text, and `off` as text, which it
    takes for false; refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:bool"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_settings(kind: type[S], config_dir: Path) -> S:
    """Read one of the three files where it has its usual name; raises what `read_settings` does."""
    return read_settings(kind, config_dir / _FILES[kind])


def read_settings(kind: type[S], path: Path) -> S:
    """Read settings of one of the three kinds.

    Raises:
        SettingsError: the file is missing or is no YAML; a key is unknown; a value has the wrong
            type or range; two values do not go together.
    """
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.load(file, _Yaml12Loader)
    except FileNotFoundError:
        raise SettingsError(
            "The settings file is missing",
            where=str(path),
            remedy="Restore it from the repository, or point XTTS_CONFIG_DIR at its folder",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The settings file is not valid YAML: {error}", where=str(path)
        ) from error
    if raw is not None and not isinstance(raw, dict):
        raise SettingsError(
            "The settings file must hold sections with keys",
            where=str(path),
            remedy="Compare it with the one in the repository",
        )
    try:
        return kind.model_validate(raw or {})
    except ValidationError as error:
        raise SettingsError(
            "; ".join(_explain(kind, problem) for problem in error.errors()), where=str(path)
        ) from None


def _explain(kind: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "(whole file)"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _known_keys(kind, location[:-1]), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it, or see docs/configuration.md"
        return f"{key}: unknown key; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    got = problem.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) or got is None else ""
    return f"{key}: {message}{shown}"


def _known_keys(kind: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)


# --- environment ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """The `XTTS_*` environment variables, with relative paths made absolute once."""

    corpus_root: Path
    videos_csv: Path
    config_dir: Path
    serving_uri: Path
    voices_dir: Path
    base_model: str | None
    grpc_address: str
    metrics_address: str | None
    custom_checkpoint: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    token_file: Path | None

    @classmethod
    def load(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """From `variables` (default: the process's own); an empty value counts as unset."""
        found = {k: v for k, v in (os.environ if variables is None else variables).items() if v}
        root = project_root()

        def path(name: str, default: Path | None) -> Path | None:
            return root / found[name] if name in found else default

        corpus = root / found.get("XTTS_CORPUS_ROOT", "data")
        return cls(
            corpus_root=corpus,
            videos_csv=path("XTTS_VIDEOS_CSV", None) or corpus / "videos.csv",
            config_dir=path("XTTS_CONFIG_DIR", None) or root / "config",
            serving_uri=path("XTTS_SERVING_URI", None) or corpus / "serving.json",
            voices_dir=path("XTTS_VOICES_DIR", None) or corpus / "voices",
            base_model=found.get("XTTS_BASE_MODEL"),
            grpc_address=found.get("XTTS_GRPC_ADDRESS", "127.0.0.1:50051"),
            metrics_address=found.get("XTTS_METRICS_ADDRESS"),
            custom_checkpoint=path("XTTS_CUSTOM_CHECKPOINT", None),
            tls_cert=path("XTTS_TLS_CERT", None),
            tls_key=path("XTTS_TLS_KEY", None),
            tls_client_ca=path("XTTS_TLS_CLIENT_CA", None),
            token_file=path("XTTS_TOKEN_FILE", None),
        )

    def dataset(self) -> DatasetSettings:
        return load_settings(DatasetSettings, self.config_dir)

    def service(self) -> ServiceSettings:
        return load_settings(ServiceSettings, self.config_dir)

    def base_model_name(self) -> str:
        """`XTTS_BASE_MODEL`, or where it is unset the base model of `config/training.yaml`."""
        return self.base_model or self.training().base_model.name

    def training(self, file: Path | None = None) -> TrainingSettings:
        """`config/training.yaml`, or another file in its place, with `XTTS_BASE_MODEL` in place of
        its base model."""
        settings = (
            read_settings(TrainingSettings, file)
            if file
            else load_settings(TrainingSettings, self.config_dir)
        )
        if self.base_model is None:
            return settings
        given = {**settings.base_model.model_dump(), "name": self.base_model}
        try:
            base_model = BaseModelSettings.model_validate(given)
        except ValidationError:
            raise SettingsError(
                f"{self.base_model!r} cannot be the name of a base model",
                where="XTTS_BASE_MODEL",
                remedy="Set it to xtts_v2 or tiny, or unset it",
            ) from None
        return settings.model_copy(update={"base_model": base_model})
