"""From transcribed clips to a dataset: metadata, train_val_splits, ljspeech_dataset."""

from typing import Any

import dagster as dg

from xtts_assets.assets.corpus import segments, transcripts, videos
from xtts_assets.assets.training import base_model
from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform, check_specs, column_schema
from xtts_core.dataset.ljspeech import LJSPEECH_DATASET, make_ljspeech_dataset, read_left_out
from xtts_core.dataset.metadata import METADATA, METADATA_SCHEMA, make_metadata
from xtts_core.dataset.report import is_current, report_path, write_report
from xtts_core.dataset.split import SPLIT_SCHEMA, TRAIN_VAL_SPLITS, make_train_val_splits
from xtts_core.stage import StageResult


@dg.asset(
    name=METADATA.name,
    partitions_def=videos_partitions,
    deps=[videos, segments, transcripts, base_model],
    group_name="dataset",
    kinds={"parquet"},
    code_version=METADATA.code_version,
    metadata=column_schema(METADATA_SCHEMA),
    check_specs=check_specs(METADATA, videos_partitions),
)
def metadata(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """One row per clip of the video: accepted, or rejected with every reason."""
    return platform.materialise(
        context,
        lambda progress: make_metadata(
            platform.store, platform.dataset, context.partition_key, progress
        ),
    )


@dg.asset(
    name=TRAIN_VAL_SPLITS.name,
    partitions_def=videos_partitions,
    deps=[metadata],
    group_name="dataset",
    kinds={"parquet"},
    code_version=TRAIN_VAL_SPLITS.code_version,
    metadata=column_schema(SPLIT_SCHEMA),
    check_specs=check_specs(TRAIN_VAL_SPLITS, videos_partitions),
)
def train_val_splits(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Which accepted clips of the video are trained on, and which are held out."""
    return platform.materialise(
        context,
        lambda progress: make_train_val_splits(
            platform.store, platform.dataset, context.partition_key, progress
        ),
    )


@dg.asset(
    name=LJSPEECH_DATASET.name,
    deps=[metadata, train_val_splits],
    group_name="dataset",
    kinds={"csv", "wav"},
    code_version=LJSPEECH_DATASET.code_version,
    check_specs=check_specs(LJSPEECH_DATASET),
)
def ljspeech_dataset(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Every accepted clip of every usable video in the LJSpeech layout, and the page to look at
    them."""
    listed = platform.listed

    def report(result: StageResult) -> dict[str, dg.MetadataValue[Any]]:
        path = report_path(platform.store)
        # A video of which nothing is accepted changes the page and not the dataset.
        if not (result.skipped and is_current(platform.store, path)):
            left_out = read_left_out(platform.store)
            write_report(platform.store, path, listed=listed, left_out=left_out)
        return {"report": dg.MetadataValue.path(path)}

    return platform.materialise(
        context,
        lambda progress: make_ljspeech_dataset(platform.store, listed, progress),
        extra=report,
    )
