"""A training step beside coqui-tts's: clips per second, and the memory of an adapter.

The GPT and the DVAE have the public sizes and random weights (`--small`: those of `tiny`, to try
this file); fp32, batches of four clips of 7 to 11.6 s cut from a recording. The peer is coqui-tts's
`GPTTrainer`: its dataset, loader and batches, its codes on every step, its training step, AdamW.
Steps of both sides take turns in one process, after one step each to warm up; memory is that of a
process of its own. Limits: a full fine-tune 1.1 times the peer's clips per second; LoRA 1.5 times,
with at most 0.6 of the memory of the full fine-tune.

    python benchmarks/training/speed.py [RECORDING.webm] [--small]
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import av
import numpy as np
import soundfile
import torch
from gpt_trainer import gpt_trainer
from safetensors.torch import save_file

from xtts_core.model import tiny
from xtts_core.model.architecture import (
    PUBLIC_GPT,
    Architecture,
    read_architecture,
    write_architecture,
)
from xtts_core.model.loading import (
    CONFIG_FILE,
    DVAE_FILE,
    build_dvae,
    build_model,
    kept_threads,
    load_mel_stats,
    load_model,
    save_model,
)
from xtts_core.settings import SAMPLE_RATE_HZ, AugmentationSettings, TrainingSettings
from xtts_core.text import normalize
from xtts_core.training.augmentation import Augmenter
from xtts_core.training.codes import Coder
from xtts_core.training.data import (
    Clip,
    LoadedTensors,
    epoch_batches,
    held_out_spans,
    tokenise,
    training_spans,
)
from xtts_core.training.lora import add_lora
from xtts_core.training.mel import conditioning_mel
from xtts_core.training.trainer import ADAM_BETAS, Data, Learner, start_accelerator

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "feira-dora.webm"
CLIPS, BATCH, ROUNDS = 24, 4, 4
CHARACTERS_PER_S = 14
LIMITS = {"full": 1.1, "lora": 1.5}
MEMORY_LIMIT = 0.6


def write_base(directory: Path, small: bool) -> None:
    """A base model of random weights: `tiny`, or the public GPT and DVAE with its vocabulary."""
    tiny.build(directory)
    if small:
        return
    config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    config["model_args"] |= PUBLIC_GPT
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    sizes = read_architecture(directory).model_copy(update={"dvae": Architecture().dvae})
    write_architecture(directory, sizes)
    torch.manual_seed(0)
    save_model(build_model(directory), directory)
    state = build_dvae(directory).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, directory / DVAE_FILE)


def cut_clips(recording: Path, folder: Path, base_dir: Path) -> list[Clip]:
    """Stretches of a recording, with as much of its text as people say in their time."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(recording) as container:
        pieces = [
            resampled.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for resampled in resampler.resample(frame)
        ]
    audio = np.concatenate(pieces)
    truth = json.loads(recording.with_suffix(".truth.json").read_text(encoding="utf-8"))
    text = normalize(" ".join(said["text"] for said in truth["speech"]), "pt")
    draw, coder, clips = random.Random(0), Coder(base_dir), []
    for number in range(CLIPS):
        samples = draw.randint(7 * SAMPLE_RATE_HZ, int(11.6 * SAMPLE_RATE_HZ))
        start = draw.randrange(len(audio) - samples)
        pcm = torch.from_numpy(audio[start : start + samples].copy())
        said = int(CHARACTERS_PER_S * samples / SAMPLE_RATE_HZ)
        at = draw.randrange(max(1, len(text) - said))
        name = f"clip-{number:02d}"
        soundfile.write(folder / f"{name}.wav", pcm.numpy(), SAMPLE_RATE_HZ, subtype="PCM_16")
        tensors = LoadedTensors({f"{name}.audio": pcm, f"{name}.codes": coder.codes(pcm)})
        row = dict.fromkeys(("video_id", "speaker"), "a") | {
            **{"clip_id": name, "sha256": name, "language": "pt", "split": "train"},
            **{"text": text[at : at + said].strip(), "snr_db": 0.0},
            **{"bandwidth_hz": None, "speaker_similarity": None},
        }
        clips.append(Clip.of(row, tensors))
    return clips


def our_steps(base_dir: Path, clips: list[Clip], lora: bool) -> Callable[[], float]:
    """A function that takes one step on the next batch of four clips, as the trainer does."""
    settings = TrainingSettings.model_validate(
        {
            "device": "cpu",
            "lora": {"enabled": lora},
            "optimisation": {"precision": "fp32", "batch_size": BATCH, "gradient_accumulation": 1},
        }
    )
    optimisation = settings.optimisation
    gpt = load_model(base_dir).gpt
    if lora:
        add_lora(gpt, settings.lora)
    gpt.train()
    mel = conditioning_mel(load_mel_stats(base_dir))
    learner = Learner.create(gpt, mel, settings, start_accelerator(settings))
    data = Data(
        clips,
        clips,
        tokenise(clips, base_dir),
        optimisation,
        Augmenter(base_dir, AugmentationSettings(), 0),
        training_spans(clips, optimisation.conditioning, seed=0),
        held_out_spans(clips),
    )

    def groups() -> Iterator[tuple[int, list[list[Clip]]]]:
        epoch = 1
        while True:
            yield from ((epoch, group) for group in data.epoch(epoch))
            epoch += 1

    following = groups()

    def step() -> float:
        epoch, group = next(following)
        begun = time.perf_counter()
        learner.step(data, group, epoch)
        return time.perf_counter() - begun

    return step


class Peer:
    """coqui-tts's training step on its own batches, and where its time goes."""

    def __init__(self, base_dir: Path, clips: list[Clip], folder: Path) -> None:
        with kept_threads():
            from TTS.tts.layers.xtts.trainer.dataset import XTTSDataset
        self._trainer = gpt_trainer(base_dir, folder)
        model = self._trainer.xtts
        model.gpt.train()
        samples = [
            {"text": c.text, "audio_file": str(folder / f"{c.clip_id}.wav"), "language": "pt"}
            for c in clips
        ]
        dataset = XTTSDataset(model.config, samples, model.tokenizer, SAMPLE_RATE_HZ)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=BATCH, shuffle=False, collate_fn=dataset.collate_fn
        )
        self._batches = (batch for _ in iter(int, 1) for batch in loader)
        decayed = [p for p in model.gpt.parameters() if p.ndim > 1]
        rest = [p for p in model.gpt.parameters() if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
            lr=5e-6,
            betas=ADAM_BETAS,
        )
        self.loading_s: list[float] = []
        self.codes_s: list[float] = []
        self.padding: list[float] = []

    def step(self) -> float:
        begun = time.perf_counter()
        batch = next(self._batches)
        loaded = time.perf_counter()
        lengths = batch["wav_lengths"]
        batch = self._trainer.format_batch_on_device(batch)
        coded = time.perf_counter()
        self._trainer.train_step(batch, None)[1]["loss"].backward()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.loading_s.append(loaded - begun)
        self.codes_s.append(coded - loaded)
        self.padding.append(1 - float(lengths.sum() / (lengths.max() * len(lengths))))
        return time.perf_counter() - begun


def compare(kind: str, base_dir: Path, recording: Path) -> dict[str, float]:
    """Steps of ours and of the peer in turn; medians in seconds, and the ratio of each pair."""
    folder = base_dir.parent / f"clips-{kind}"
    folder.mkdir(exist_ok=True)
    clips = cut_clips(recording, folder, base_dir)
    ours, peer = our_steps(base_dir, clips, kind == "lora"), Peer(base_dir, clips, folder)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ours(), peer.step()
    pairs = [(ours(), peer.step()) for _ in range(ROUNDS)]
    batches = epoch_batches(clips, BATCH, seed=0, epoch=1)
    longest = sum(max(c.n_codes for c in batch) * len(batch) for batch in batches)
    return {
        "ours_s": statistics.median(pair[0] for pair in pairs),
        "peer_s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(theirs / mine for mine, theirs in pairs),
        "loading": sum(peer.loading_s) / sum(pair[1] for pair in pairs) * ROUNDS / (ROUNDS + 1),
        "codes": sum(peer.codes_s) / sum(pair[1] for pair in pairs) * ROUNDS / (ROUNDS + 1),
        "peer_padding": sum(peer.padding) / len(peer.padding),
        "our_padding": 1 - sum(c.n_codes for c in clips) / longest,
    }


def alone(kind: str, base_dir: Path, recording: Path) -> dict[str, float]:
    """The peak memory of a process that takes two of our steps."""
    folder = base_dir.parent / f"alone-{kind}"
    folder.mkdir(exist_ok=True)
    step = our_steps(base_dir, cut_clips(recording, folder, base_dir), kind == "lora")
    step(), step()
    return {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def child(what: str, kind: str, base_dir: Path, recording: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", what, kind, base_dir, recording],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        what, kind, base_dir, recording = sys.argv[2:]
        measure = {"compare": compare, "alone": alone}[what]
        print(json.dumps(measure(kind, Path(base_dir), Path(recording))))
        return 0
    small = "--small" in sys.argv
    given = [argument for argument in sys.argv[1:] if argument != "--small"]
    recording = Path(given[0]) if given else DEMO
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{recording.name}, {CLIPS} clips of 7 to 11.6 s, batches of {BATCH}, "
        f"{os.environ['OMP_NUM_THREADS']} threads, {'small' if small else 'public'} architecture"
    )
    held = True
    with tempfile.TemporaryDirectory() as name:
        base_dir = Path(name) / "base"
        base_dir.mkdir()
        write_base(base_dir, small)
        peaks = {}
        for kind, limit in LIMITS.items():
            found = child("compare", kind, base_dir, recording)
            peaks[kind] = child("alone", kind, base_dir, recording)["peak_gb"]
            held &= found["ratio"] >= limit
            print(
                f"{kind:5} ours {BATCH / found['ours_s']:.3f} clips/s, coqui-tts "
                f"{BATCH / found['peer_s']:.3f}, {found['ratio']:.2f} times, bar {limit}: "
                f"{'held' if found['ratio'] >= limit else 'NOT HELD'}; peak {peaks[kind]:.1f} GB"
            )
            print(
                f"      coqui-tts: padding {found['peer_padding']:.1%} (ours "
                f"{found['our_padding']:.1%}), loading {found['loading']:.1%} and codes "
                f"{found['codes']:.1%} of its step",
                flush=True,
            )
    share = peaks["lora"] / peaks["full"]
    held &= share <= MEMORY_LIMIT
    print(
        f"LoRA's memory: {share:.2f} of the full fine-tune's, bar {MEMORY_LIMIT}: "
        f"{'held' if share <= MEMORY_LIMIT else 'NOT HELD'}"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
