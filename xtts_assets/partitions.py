"""The partition set: one key per video."""

from __future__ import annotations

import dagster as dg

videos_partitions = dg.DynamicPartitionsDefinition(name="videos")
