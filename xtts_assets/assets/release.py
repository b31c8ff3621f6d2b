"""From a voice to the service: evaluation_samples, scorecard, served_release."""

import dagster as dg

from xtts_assets.assets.dataset import metadata, train_val_splits
from xtts_assets.assets.training import base_model, finetuned_checkpoint
from xtts_assets.partitions import videos_partitions
from xtts_assets.platform import Platform, check_specs
from xtts_core.evaluation.release import SERVED_RELEASE, make_served_release
from xtts_core.evaluation.samples import EVALUATION_SAMPLES, make_evaluation_samples
from xtts_core.evaluation.scorecard import SCORECARD, make_scorecard

NUDGE_TIMEOUT_S = 60.0
"""Longer than a reload takes: 5 to 10 s was seen (triton-inference-server/server#4422)."""


@dg.asset(
    name=EVALUATION_SAMPLES.name,
    partitions_def=videos_partitions,
    deps=[finetuned_checkpoint, base_model, metadata, train_val_splits],
    group_name="release",
    kinds={"wav", "json"},
    code_version=EVALUATION_SAMPLES.code_version,
    check_specs=check_specs(EVALUATION_SAMPLES, videos_partitions),
    pool="gpu",
)
def evaluation_samples(
    context: dg.AssetExecutionContext, platform: Platform
) -> dg.MaterializeResult:
    """Held-out sentences of the video spoken by the base and by the fine-tuned model."""
    return platform.materialise(
        context,
        lambda progress: make_evaluation_samples(
            platform.store, platform.training, context.partition_key, progress
        ),
    )


@dg.asset(
    name=SCORECARD.name,
    deps=[evaluation_samples],
    group_name="release",
    kinds={"json"},
    code_version=SCORECARD.code_version,
    check_specs=check_specs(SCORECARD),
)
def scorecard(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The fine-tuned model against its base over every video; the gate of a release."""
    return platform.materialise(
        context, lambda progress: make_scorecard(platform.store, platform.training, progress)
    )


@dg.asset(
    name=SERVED_RELEASE.name,
    deps=[scorecard, finetuned_checkpoint],
    group_name="release",
    kinds={"grpc"},
    code_version=SERVED_RELEASE.code_version,
    check_specs=check_specs(SERVED_RELEASE),
)
def served_release(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """The release that serving.json points to, and a nudge to the service to load it now."""
    return platform.materialise(
        context,
        lambda progress: make_served_release(
            platform.store, platform.environment.serving_uri, progress
        ),
        extra=lambda result: {"service": nudge(platform.environment.grpc_address)},
    )


def nudge(address: str) -> str:
    """Ask the service to look at serving.json now; it polls the file anyway, so a service that
    is down or refuses is no error. Returns what it answered."""
    from xtts_grpc.client import ServiceError, SynthesisClient

    try:
        with SynthesisClient(address, timeout_s=NUDGE_TIMEOUT_S) as client:
            return f"{address} serves {client.reload_model().model_version}"
    except ServiceError as error:
        return f"{address} did not reload now ({error.what}); it polls serving.json"
