"""`xtts-say`: have the synthesis service speak a text into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtts_core.errors import RequestError, XttsError
from xtts_core.settings import Environment
from xtts_grpc.client import ClientTls, StreamEnd, StreamStart, SynthesisClient
from xtts_grpc.messages import MAX_RATE_HZ, MIN_RATE_HZ, OPUS_RATES_HZ

if TYPE_CHECKING:
    from rich.progress import Progress

_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
}
_BYTES_PER_SAMPLE = 2


def say(
    text: Annotated[str, typer.Argument(help="What to say.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write: .wav, .flac, .ogg or .opus.")
    ],
    voice: Annotated[
        str | None, typer.Option(help="A cloned voice's id, or a speaker of the model.")
    ] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="Clone the voice of this recording, 3 to 30 s; may be given again."),
    ] = None,
    language: Annotated[str, typer.Option(help="A language tag, such as pt-BR.")] = "pt-BR",
    speed: Annotated[float, typer.Option(help="A factor on the speaking rate, 0.5 to 2.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Repeats a take.")] = None,
    sample_rate: Annotated[
        int, typer.Option(min=MIN_RATE_HZ, max=MAX_RATE_HZ, help="Hertz.")
    ] = 24_000,
    address: Annotated[
        str | None, typer.Option(help="host:port of the service. Default: XTTS_GRPC_ADDRESS.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which to give up.")] = 300.0,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with the token that the service knows you by.")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="Call with TLS: the certificate that the service's was signed with."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Your certificate, where the service asks for one.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of your certificate.")] = None,
) -> None:
    """Speak TEXT in a voice and write the audio to a file."""
    try:
        if out.suffix.lower() not in _FORMATS:
            raise RequestError(
                f"The file type {out.suffix!r} is not known",
                where=str(out),
                remedy=f"Name a file that ends in {', '.join(_FORMATS)}",
            )
        if _FORMATS[out.suffix.lower()][1] == "OPUS" and sample_rate not in OPUS_RATES_HZ:
            raise RequestError(
                f"Opus cannot carry {sample_rate} Hz",
                where="--sample-rate",
                remedy=f"Take one of {', '.join(map(str, OPUS_RATES_HZ))}, or another file type",
            )
        if (voice is None) == (not reference):
            raise RequestError(
                "Exactly one of them is needed",
                where="--voice, --reference",
                remedy="Name a voice, or give a recording to clone it from",
            )
        where = address or Environment.load().grpc_address
        token = _read(token_file).decode().strip() if token_file else None
        tls = _tls(tls_ca, tls_cert, tls_key)
        with SynthesisClient(where, timeout_s=timeout, token=token, tls=tls) as client:
            voice_id = voice or _clone(client, reference or [])
            _say(client, text, out, voice_id, language, speed, seed, sample_rate)
    except XttsError as error:
        print(f"xtts-say: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def main() -> None:
    """The program `xtts-say`."""
    typer.run(say)


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ClientTls | None:
    if not (ca or certificate or key):
        return None
    if (certificate is None) != (key is None):
        raise RequestError(
            "A certificate needs its key", where="--tls-cert, --tls-key", remedy="Give both"
        )
    ca_pem, certificate_pem, key_pem = (
        _read(path) if path else None for path in (ca, certificate, key)
    )
    return ClientTls(ca_pem, certificate_pem, key_pem)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"The file cannot be read ({error.strerror})", where=str(error.filename)
        ) from error


def _clone(client: SynthesisClient, references: list[Path]) -> str:
    voice = client.clone_voice(list(map(_read, references)), label=references[0].stem)
    print(f"voice {voice.voice_id} ({voice.reference_s:.1f} s of reference)")
    return voice.voice_id


def _say(
    client: SynthesisClient,
    text: str,
    out: Path,
    voice_id: str,
    language: str,
    speed: float,
    seed: int | None,
    sample_rate_hz: int,
) -> None:
    audio = bytearray()
    parts = client.stream(
        text,
        voice_id=voice_id,
        language=language,
        speed=speed,
        seed=seed,
        sample_rate_hz=sample_rate_hz,
    )
    with _progress() as progress:
        bar = progress.add_task("speaking", total=None, said="0.0 s")
        for part in parts:
            if isinstance(part, StreamStart):
                start = part
            elif isinstance(part, StreamEnd):
                end = part
            else:
                audio += part
                said_s = len(audio) / _BYTES_PER_SAMPLE / sample_rate_hz
                progress.update(bar, said=f"{said_s:.1f} s")
    _write(out, bytes(audio), sample_rate_hz)
    print(
        f"{out}: {end.duration_s:.2f} s, model {start.model_version}, seed {start.seed}, "
        f"{end.real_time_factor:.2f} s of work for each second"
    )
    if end.cut_sentences:
        print(
            f"xtts-say: {end.cut_sentences} of its sentences ran away and end where they did; "
            "another seed may do better",
            file=sys.stderr,
        )


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description} {task.fields[said]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _write(out: Path, audio: bytes, sample_rate_hz: int) -> None:
    import numpy as np
    import soundfile

    from xtts_core.store import atomic_file

    container, subtype = _FORMATS[out.suffix.lower()]
    samples = np.frombuffer(audio, "<i2")
    try:
        with atomic_file(out) as aside:
            soundfile.write(aside, samples, sample_rate_hz, format=container, subtype=subtype)
    except (OSError, soundfile.LibsndfileError) as error:
        raise RequestError(f"The file cannot be written ({error})", where=str(out)) from error


if __name__ == "__main__":
    main()
