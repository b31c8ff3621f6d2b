"""The `base_model` asset: the model that fine-tuning starts from, verified and converted.

`models/<name>/` holds `config.json`, `architecture.json`, `vocab.json`, `model.safetensors`,
`dvae.safetensors`, `mel_stats.safetensors`, `speakers.safetensors` where the source has studio
voices, `LICENSE.txt` where it has one, and `manifest.json`, written last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtts_core.errors import ModelError, SettingsError
from xtts_core.model import coqui_checkpoint, hub
from xtts_core.model.checkpoint import (
    MANIFEST_FILE,
    Manifest,
    Origin,
    damage,
    describe_files,
    read_manifest,
    verify,
    write_manifest,
)
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.settings import TrainingSettings
from xtts_core.stage import (
    CheckSpec,
    Markdown,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    forget,
    read_result,
    run_stage,
    silent,
)
from xtts_core.store import WHOLE, CorpusStore, project_root

BASE_MODEL = Stage(
    name="base_model",
    code_version="1",
    checks=(
        CheckSpec("checksums_match", "error", "every file has the SHA-256 of the manifest"),
        CheckSpec(
            "licence_accepted", "error", "the licence is known, and was accepted where it asks"
        ),
        CheckSpec("weights_finite", "error", "every weight is a finite number"),
        CheckSpec("speaks_portuguese", "warn", "the vocabulary knows Portuguese"),
    ),
)

_TINY_RECIPE = 1
"""Raised when `tiny.build` gives another model."""


@dataclass(frozen=True)
class _Recipe:
    """How a base model comes to be: `origin` is all that its content follows from; `acceptance`
    says how the user accepts its licence, or why that is not needed."""

    origin: Origin
    licence: str
    accepted: bool
    acceptance: str
    build: Callable[[Path], object]

    @property
    def lineage(self) -> dict[str, str]:
        """What the manifest says beside the origin."""
        return {"code_version": BASE_MODEL.code_version}


def base_model_dir(store: CorpusStore, settings: TrainingSettings) -> Path:
    """The folder of the base model that the settings name."""
    return store.base_model(settings.base_model.name)


def make_base_model(
    store: CorpusStore, settings: TrainingSettings, progress: Progress = silent
) -> StageResult:
    """Build or fetch the base model that the settings name, unless it is there and whole.

    Each name has its folder, so going back to an earlier one finds it where it was. A licence
    that is not accepted any more blocks what builds on the model, and its files stay.

    Raises:
        SettingsError: no base model has this name.
        LicenceError: its licence has to be accepted first.
        ModelError: a file does not have its checksum, or does not hold what it should.
        TransientSourceError: the hub could not be reached this time.
    """
    recipe = _recipe(store, settings, progress)
    directory = base_model_dir(store, settings)

    known = read_result(store, BASE_MODEL.name, WHOLE)
    if known is not None and known.blocked:
        # Its cause may be gone, or the files can be had again.
        forget(store, BASE_MODEL.name, WHOLE)

    def build(fingerprint: str) -> Outcome:
        if not _is_there(directory, recipe):
            _install(directory, recipe)
        return _outcome(directory, recipe)

    return run_stage(
        store,
        BASE_MODEL,
        WHOLE,
        inputs={"origin": recipe.origin.model_dump(mode="json"), "accepted": recipe.accepted},
        build=build,
    )


def _recipe(store: CorpusStore, settings: TrainingSettings, progress: Progress) -> _Recipe:
    public = hub.XTTS_V2

    def from_hub(directory: Path) -> Origin:
        return hub.build(
            public,
            directory,
            settings.base_model,
            downloads=store.base_model(".downloads"),
            progress=progress,
        )

    recipes = {
        "tiny": _Recipe(
            Origin(name="tiny", source="built from a seed", revision=str(_TINY_RECIPE)),
            licence="Apache-2.0",
            accepted=True,
            acceptance="not needed",
            build=_build_tiny,
        ),
        public.name: _Recipe(
            public.origin,
            licence=public.licence,
            accepted=public.accepted,
            acceptance=f"{public.acceptance} is {'' if public.accepted else 'not '}1",
            build=from_hub,
        ),
    }
    name = settings.base_model.name
    if settings.base_model.checkpoint is not None:
        return _from_checkpoint(name, project_root() / settings.base_model.checkpoint, recipes)
    if name not in recipes:
        raise SettingsError(
            f"There is no base model {name!r}",
            where="base_model.name",
            remedy=f"Use one of {', '.join(recipes)}, or name a file in base_model.checkpoint",
        )
    return recipes[name]


def _from_checkpoint(name: str, checkpoint: Path, taken: Collection[str]) -> _Recipe:
    """A checkpoint of coqui-tts descends from XTTS-v2, whose licence binds it."""
    if name in taken:
        raise SettingsError(
            f"{name!r} is the name of another base model",
            where="base_model.name",
            remedy="Give the model of base_model.checkpoint a name of its own",
        )
    public = hub.XTTS_V2

    def convert(directory: Path) -> None:
        hub.require_licence(public)
        coqui_checkpoint.build(checkpoint, directory)

    return _Recipe(
        coqui_checkpoint.origin(name, checkpoint),
        licence=public.licence,
        accepted=public.accepted,
        acceptance=f"{public.acceptance} is {'' if public.accepted else 'not '}1",
        build=convert,
    )


def _build_tiny(directory: Path) -> None:
    from xtts_core.model import tiny

    tiny.build(directory)


def _is_there(directory: Path, recipe: _Recipe) -> bool:
    """Whether an earlier run left this very model in its folder, whole."""
    try:
        found = verify(directory)
    except ModelError:
        return False
    wanted = (recipe.origin, recipe.licence, recipe.lineage)
    return (found.base_model, found.licence, found.lineage) == wanted


def _install(directory: Path, recipe: _Recipe) -> None:
    """Fill `directory`, which has no manifest until all its files are there."""
    directory.mkdir(parents=True, exist_ok=True)
    # The lock of the stage leaves it to one writer; a killed one's is taken over.
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        recipe.build(aside)
        manifest = Manifest(
            kind="base",
            licence=recipe.licence,
            base_model=recipe.origin,
            lineage=recipe.lineage,
            files=describe_files(aside),
        )
        (directory / MANIFEST_FILE).unlink(missing_ok=True)
        for name in manifest.files:
            (aside / name).replace(directory / name)
        write_manifest(directory, manifest)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _outcome(directory: Path, recipe: _Recipe) -> Outcome:
    manifest = read_manifest(directory)
    parameters, finite = _count_parameters(directory)
    tokenizer = Tokenizer.load(directory)
    size = sum(entry.size for entry in manifest.files.values())
    return Outcome(
        uri=directory,
        outputs=[*(directory / name for name in manifest.files), directory / MANIFEST_FILE],
        verdicts=judge(
            manifest,
            damaged=damage(directory, manifest),
            accepted=recipe.accepted,
            acceptance=recipe.acceptance,
            finite=finite,
            languages=tokenizer.languages,
        ),
        metadata={
            "name": manifest.base_model.name,
            "licence": manifest.licence,
            "source": manifest.base_model.source,
            "revision": manifest.base_model.revision,
            "parameters": parameters,
            "size_bytes": size,
            "text_tokens": len(tokenizer),
            "languages": ", ".join(tokenizer.languages),
            "files": Markdown(_table(manifest)),
        },
        row_count=len(manifest.files),
    )


def judge(
    manifest: Manifest,
    *,
    damaged: Mapping[str, str],
    accepted: bool,
    acceptance: str,
    finite: bool,
    languages: Sequence[str],
) -> list[Verdict]:
    """The verdicts on a base model.

    Args:
        damaged: the files that are not as the manifest says, with what is wrong.
        accepted: whether the licence is accepted now, or needs no acceptance.
        acceptance: how a person reads that.
        finite: whether every weight is a finite number.
        languages: what the vocabulary has a tag for.
    """
    return [
        BASE_MODEL.verdict(
            "checksums_match",
            bool(manifest.files) and not damaged,
            value=len(manifest.files) - len(damaged),
            threshold=len(manifest.files),
            detail="; ".join(f"{name}: {what}" for name, what in damaged.items()),
        ),
        BASE_MODEL.verdict(
            "licence_accepted",
            bool(manifest.licence) and accepted,
            value=acceptance,
            detail=f"{manifest.licence or 'no licence'}: {acceptance}",
        ),
        BASE_MODEL.verdict("weights_finite", finite),
        BASE_MODEL.verdict("speaks_portuguese", "pt" in languages, value=", ".join(languages)),
    ]


def _count_parameters(directory: Path) -> tuple[int, bool]:
    """How many weights the model and its DVAE have, and whether all are finite.

    Both are loaded, so weights that do not fit the architecture are found here.
    """
    from xtts_core.model.loading import load_dvae, load_mel_stats, load_model

    load_mel_stats(directory)
    modules = (load_model(directory), load_dvae(directory))
    weights = [weight for module in modules for weight in module.parameters()]
    finite = all(bool(weight.isfinite().all()) for weight in weights)
    return sum(weight.numel() for weight in weights), finite


def _table(manifest: Manifest) -> str:
    rows = [f"| {name} | {e.size} | {e.sha256[:16]} |" for name, e in manifest.files.items()]
    return "\n".join(["| file | bytes | SHA-256 |", "|---|---|---|", *rows])
