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

from xtts_core.errors import LicenceError, ModelError, SettingsError
from xtts_core.model import hub
from xtts_core.model.checkpoint import (
    LICENCE_FILE,
    MANIFEST_FILE,
    Manifest,
    Origin,
    damage,
    describe_files,
    read_manifest,
    verify,
    write_manifest,
)
from xtts_core.model.coqui_checkpoint import CoquiCheckpoint
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
from xtts_core.store import WHOLE, CorpusStore, atomic_dir, project_root, read_json

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

_NOT_NEEDED = "not needed"

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
        SettingsError: no base model has this name, or a checkpoint may not have it.
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


def require_prepared(store: CorpusStore, settings: TrainingSettings) -> None:
    """Refuse settings of another base model than the one that the corpus was prepared for: its
    clips were checked against that one's vocabulary.

    Raises:
        SettingsError: it is another one.
    """
    path = store.record(BASE_MODEL.name, WHOLE)
    if not path.is_file():
        return
    prepared = read_json(path)["inputs"]["origin"]
    origin = _recipe(store, settings, silent).origin.model_dump(mode="json")
    if prepared != origin:
        raise SettingsError(
            f"The corpus was prepared for the base model {prepared['name']} "
            f"({prepared['source']}), and not for {origin['name']} ({origin['source']})",
            where="base_model",
            remedy="Set base_model in config/training.yaml and run `xtts run`, which prepares it",
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
            acceptance=_NOT_NEEDED,
            build=_build_tiny,
        ),
        public.name: _Recipe(
            public.origin,
            licence=public.licence,
            accepted=public.accepted,
            acceptance=_told(public),
            build=from_hub,
        ),
    }
    name, checkpoint = settings.base_model.name, settings.base_model.checkpoint
    if checkpoint is not None:
        return _from_checkpoint(store, name, project_root() / checkpoint, taken=recipes)
    if name not in recipes:
        raise SettingsError(
            f"There is no base model {name!r}",
            where="base_model.name",
            remedy=f"Use one of {', '.join(recipes)}, or let base_model.checkpoint name a "
            "checkpoint of coqui-tts",
        )
    return recipes[name]


def _from_checkpoint(
    store: CorpusStore, name: str, weights: Path, *, taken: Collection[str]
) -> _Recipe:
    directory = store.base_model(name)
    if name.lower() in taken:
        raise SettingsError(
            f"base_model.checkpoint is set, and {name} is the name of another base model",
            where="base_model.name",
            remedy="Give the model of the checkpoint a name of its own, or set "
            "base_model.checkpoint to null",
        )
    if weights.resolve().is_relative_to(directory.resolve()):
        raise SettingsError(
            f"The checkpoint lies where the base model {name} is written",
            where=str(weights),
            remedy="Move its folder, or give base_model.name another name",
        )
    checkpoint = CoquiCheckpoint.at(weights)
    origin = checkpoint.origin(name, directory)
    own = checkpoint.licence
    public = hub.XTTS_V2

    def convert(directory: Path) -> None:
        if own is None and not public.accepted:
            raise LicenceError(
                f"The checkpoint has no licence of its own, so that of {public.repository} holds "
                f"and has not been accepted: {public.licence}",
                where=str(weights),
                remedy=f"Read {public.licence_url}, and set {public.acceptance}=1 if you accept "
                f"it; or put the model's own {LICENCE_FILE} beside it",
            )
        checkpoint.convert(directory, origin)

    return _Recipe(
        origin,
        licence=own or public.licence,
        accepted=own is not None or public.accepted,
        acceptance=_NOT_NEEDED if own is not None else _told(public),
        build=convert,
    )


def _told(model: hub.HubModel) -> str:
    return f"{model.acceptance} is {'' if model.accepted else 'not '}1"


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
    """Put the model in the place of whatever `directory` held."""
    with atomic_dir(directory) as aside:
        recipe.build(aside)
        write_manifest(
            aside,
            Manifest(
                kind="base",
                licence=recipe.licence,
                base_model=recipe.origin,
                lineage=recipe.lineage,
                files=describe_files(aside),
            ),
        )
        (directory / MANIFEST_FILE).unlink(missing_ok=True)
        if directory.is_dir():
            shutil.rmtree(directory)


def _outcome(directory: Path, recipe: _Recipe) -> Outcome:
    manifest = read_manifest(directory)
    parameters, broken = _count_parameters(directory)
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
            broken=broken,
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
    broken: Sequence[str],
    languages: Sequence[str],
) -> list[Verdict]:
    """The verdicts on a base model.

    Args:
        damaged: the files that are not as the manifest says, with what is wrong.
        accepted: whether the licence is accepted now, or needs no acceptance.
        acceptance: how a person reads that.
        broken: the weights that hold values which are not finite numbers.
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
        BASE_MODEL.verdict(
            "weights_finite",
            not broken,
            value=len(broken),
            threshold=0,
            detail=f"not finite numbers: {', '.join(broken[:5])}" if broken else "",
        ),
        BASE_MODEL.verdict("speaks_portuguese", "pt" in languages, value=", ".join(languages)),
    ]


def _count_parameters(directory: Path) -> tuple[int, list[str]]:
    """How many weights the model and its DVAE have, and which tensors are not finite.

    Both are loaded, so weights that do not fit the architecture are found here.
    """
    from xtts_core.model.loading import load_dvae, load_mel_stats, load_model

    load_mel_stats(directory)
    modules = (load_model(directory), load_dvae(directory))
    weights = [named for module in modules for named in module.named_parameters()]
    broken = [name for name, weight in weights if not weight.isfinite().all()]
    return sum(weight.numel() for _, weight in weights), broken


def _table(manifest: Manifest) -> str:
    rows = [f"| {name} | {e.size} | {e.sha256[:16]} |" for name, e in manifest.files.items()]
    return "\n".join(["| file | bytes | SHA-256 |", "|---|---|---|", *rows])
