import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AudioEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIO_ENCODING_UNSPECIFIED: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_PCM16: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_WAV: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_FLAC: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_OGG_OPUS: _ClassVar[AudioEncoding]

class ModelSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_SOURCE_UNSPECIFIED: _ClassVar[ModelSource]
    MODEL_SOURCE_RELEASE: _ClassVar[ModelSource]
    MODEL_SOURCE_CUSTOM_CHECKPOINT: _ClassVar[ModelSource]
    MODEL_SOURCE_BASE_MODEL: _ClassVar[ModelSource]
AUDIO_ENCODING_UNSPECIFIED: AudioEncoding
AUDIO_ENCODING_PCM16: AudioEncoding
AUDIO_ENCODING_WAV: AudioEncoding
AUDIO_ENCODING_FLAC: AudioEncoding
AUDIO_ENCODING_OGG_OPUS: AudioEncoding
MODEL_SOURCE_UNSPECIFIED: ModelSource
MODEL_SOURCE_RELEASE: ModelSource
MODEL_SOURCE_CUSTOM_CHECKPOINT: ModelSource
MODEL_SOURCE_BASE_MODEL: ModelSource

class AudioFormat(_message.Message):
    __slots__ = ("sample_rate_hz", "encoding")
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    sample_rate_hz: int
    encoding: AudioEncoding
    def __init__(self, sample_rate_hz: _Optional[int] = ..., encoding: _Optional[_Union[AudioEncoding, str]] = ...) -> None: ...

class SamplingSettings(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "repetition_penalty", "max_audio_tokens")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    MAX_AUDIO_TOKENS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    max_audio_tokens: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., max_audio_tokens: _Optional[int] = ...) -> None: ...

class Utterance(_message.Message):
    __slots__ = ("text", "language", "speed", "sampling", "seed")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    text: str
    language: str
    speed: float
    sampling: SamplingSettings
    seed: int
    def __init__(self, text: _Optional[str] = ..., language: _Optional[str] = ..., speed: _Optional[float] = ..., sampling: _Optional[_Union[SamplingSettings, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class Speech(_message.Message):
    __slots__ = ("audio", "format", "duration_s", "model_version", "seed", "real_time_factor", "retried_sentences", "cut_sentences")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REAL_TIME_FACTOR_FIELD_NUMBER: _ClassVar[int]
    RETRIED_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    CUT_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    audio: bytes
    format: AudioFormat
    duration_s: float
    model_version: str
    seed: int
    real_time_factor: float
    retried_sentences: int
    cut_sentences: int
    def __init__(self, audio: _Optional[bytes] = ..., format: _Optional[_Union[AudioFormat, _Mapping]] = ..., duration_s: _Optional[float] = ..., model_version: _Optional[str] = ..., seed: _Optional[int] = ..., real_time_factor: _Optional[float] = ..., retried_sentences: _Optional[int] = ..., cut_sentences: _Optional[int] = ...) -> None: ...

class SynthesizeRequest(_message.Message):
    __slots__ = ("utterance", "voice_id", "format")
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    VOICE_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    utterance: Utterance
    voice_id: str
    format: AudioFormat
    def __init__(self, utterance: _Optional[_Union[Utterance, _Mapping]] = ..., voice_id: _Optional[str] = ..., format: _Optional[_Union[AudioFormat, _Mapping]] = ...) -> None: ...

class SynthesizeResponse(_message.Message):
    __slots__ = ("speech",)
    SPEECH_FIELD_NUMBER: _ClassVar[int]
    speech: Speech
    def __init__(self, speech: _Optional[_Union[Speech, _Mapping]] = ...) -> None: ...

class SynthesizeStreamRequest(_message.Message):
    __slots__ = ("utterance", "voice_id", "format")
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    VOICE_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    utterance: Utterance
    voice_id: str
    format: AudioFormat
    def __init__(self, utterance: _Optional[_Union[Utterance, _Mapping]] = ..., voice_id: _Optional[str] = ..., format: _Optional[_Union[AudioFormat, _Mapping]] = ...) -> None: ...

class SynthesizeStreamResponse(_message.Message):
    __slots__ = ("start", "audio", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: StreamStart
    audio: bytes
    end: StreamEnd
    def __init__(self, start: _Optional[_Union[StreamStart, _Mapping]] = ..., audio: _Optional[bytes] = ..., end: _Optional[_Union[StreamEnd, _Mapping]] = ...) -> None: ...

class StreamStart(_message.Message):
    __slots__ = ("format", "model_version", "seed")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    format: AudioFormat
    model_version: str
    seed: int
    def __init__(self, format: _Optional[_Union[AudioFormat, _Mapping]] = ..., model_version: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class StreamEnd(_message.Message):
    __slots__ = ("duration_s", "real_time_factor", "cut_sentences")
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    REAL_TIME_FACTOR_FIELD_NUMBER: _ClassVar[int]
    CUT_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    duration_s: float
    real_time_factor: float
    cut_sentences: int
    def __init__(self, duration_s: _Optional[float] = ..., real_time_factor: _Optional[float] = ..., cut_sentences: _Optional[int] = ...) -> None: ...

class CloneVoiceRequest(_message.Message):
    __slots__ = ("references", "label", "consent", "utterance", "format")
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    references: _containers.RepeatedScalarFieldContainer[bytes]
    label: str
    consent: str
    utterance: Utterance
    format: AudioFormat
    def __init__(self, references: _Optional[_Iterable[bytes]] = ..., label: _Optional[str] = ..., consent: _Optional[str] = ..., utterance: _Optional[_Union[Utterance, _Mapping]] = ..., format: _Optional[_Union[AudioFormat, _Mapping]] = ...) -> None: ...

class CloneVoiceResponse(_message.Message):
    __slots__ = ("voice_id", "reference_s", "speech")
    VOICE_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_S_FIELD_NUMBER: _ClassVar[int]
    SPEECH_FIELD_NUMBER: _ClassVar[int]
    voice_id: str
    reference_s: float
    speech: Speech
    def __init__(self, voice_id: _Optional[str] = ..., reference_s: _Optional[float] = ..., speech: _Optional[_Union[Speech, _Mapping]] = ...) -> None: ...

class Voice(_message.Message):
    __slots__ = ("voice_id", "label", "consent", "reference_s", "reference_count", "created_at")
    VOICE_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_S_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    voice_id: str
    label: str
    consent: str
    reference_s: float
    reference_count: int
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, voice_id: _Optional[str] = ..., label: _Optional[str] = ..., consent: _Optional[str] = ..., reference_s: _Optional[float] = ..., reference_count: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListVoicesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVoicesResponse(_message.Message):
    __slots__ = ("voices", "next_page_token")
    VOICES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    voices: _containers.RepeatedCompositeFieldContainer[Voice]
    next_page_token: str
    def __init__(self, voices: _Optional[_Iterable[_Union[Voice, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetVoiceRequest(_message.Message):
    __slots__ = ("voice_id",)
    VOICE_ID_FIELD_NUMBER: _ClassVar[int]
    voice_id: str
    def __init__(self, voice_id: _Optional[str] = ...) -> None: ...

class GetVoiceResponse(_message.Message):
    __slots__ = ("voice",)
    VOICE_FIELD_NUMBER: _ClassVar[int]
    voice: Voice
    def __init__(self, voice: _Optional[_Union[Voice, _Mapping]] = ...) -> None: ...

class DeleteVoiceRequest(_message.Message):
    __slots__ = ("voice_id",)
    VOICE_ID_FIELD_NUMBER: _ClassVar[int]
    voice_id: str
    def __init__(self, voice_id: _Optional[str] = ...) -> None: ...

class DeleteVoiceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("serving", "model_version", "release", "source", "languages", "speakers", "native_sample_rate_hz", "loaded_at", "fallback_reason", "last_error", "last_error_at")
    SERVING_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    SPEAKERS_FIELD_NUMBER: _ClassVar[int]
    NATIVE_SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    LOADED_AT_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_AT_FIELD_NUMBER: _ClassVar[int]
    serving: bool
    model_version: str
    release: int
    source: ModelSource
    languages: _containers.RepeatedScalarFieldContainer[str]
    speakers: _containers.RepeatedScalarFieldContainer[str]
    native_sample_rate_hz: int
    loaded_at: _timestamp_pb2.Timestamp
    fallback_reason: str
    last_error: str
    last_error_at: _timestamp_pb2.Timestamp
    def __init__(self, serving: _Optional[bool] = ..., model_version: _Optional[str] = ..., release: _Optional[int] = ..., source: _Optional[_Union[ModelSource, str]] = ..., languages: _Optional[_Iterable[str]] = ..., speakers: _Optional[_Iterable[str]] = ..., native_sample_rate_hz: _Optional[int] = ..., loaded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., fallback_reason: _Optional[str] = ..., last_error: _Optional[str] = ..., last_error_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReloadModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadModelResponse(_message.Message):
    __slots__ = ("model_version", "release", "changed")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    release: int
    changed: bool
    def __init__(self, model_version: _Optional[str] = ..., release: _Optional[int] = ..., changed: _Optional[bool] = ...) -> None: ...
