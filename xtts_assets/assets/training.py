"""From a dataset to a voice: base_model, audio_codes, finetuned_checkpoint."""

import dagster as dg

from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform, check_specs
from xtts_core.model.base import BASE_MODEL, make_base_model
from xtts_core.training.codes import AUDIO_CODES, make_audio_codes
from xtts_core.training.finetuned_checkpoint import (
    FINETUNED_CHECKPOINT,
    make_finetuned_checkpoint,
)


@dg.asset(
    name=BASE_MODEL.name,
    group_name="training",
    kinds={"safetensors"},
    code_version=BASE_MODEL.code_version,
    check_specs=check_specs(BASE_MODEL),
)
def base_model(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The XTTS model that training starts from, verified and converted to safetensors."""
    return platform.materialise(
        context, lambda progress: make_base_model(platform.store, platform.training, progress)
    )


@dg.asset(
    name=AUDIO_CODES.name,
    partitions_def=videos_partitions,
    deps=["metadata", "train_val_splits", base_model],
    group_name="training",
    kinds={"safetensors"},
    code_version=AUDIO_CODES.code_version,
    check_specs=check_specs(AUDIO_CODES, videos_partitions),
    pool="gpu",
)
def audio_codes(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The base model's DVAE codes of each accepted clip of the video, and its audio."""
    return platform.materialise(
        context,
        lambda progress: make_audio_codes(
            platform.store, platform.training, context.partition_key, progress
        ),
    )


@dg.asset(
    name=FINETUNED_CHECKPOINT.name,
    deps=[audio_codes, base_model],
    group_name="training",
    kinds={"pytorch", "safetensors"},
    code_version=FINETUNED_CHECKPOINT.code_version,
    check_specs=check_specs(FINETUNED_CHECKPOINT),
    pool="gpu",
)
def finetuned_checkpoint(
    context: dg.AssetExecutionContext, platform: Platform
) -> dg.MaterializeResult:
    """The voice: a fine-tuned model with its reference clips, report and manifest."""
    return platform.materialise(
        context,
        lambda progress: make_finetuned_checkpoint(
            platform.store, platform.training, progress, context.log.info, platform.listed
        ),
    )
