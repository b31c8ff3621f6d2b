"""The metadata files: one schema, read by everybody, never misread."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from xtts_core.dataset.metadata import METADATA_SCHEMA, SCHEMA_VERSION, read_metadata
from xtts_core.errors import DatasetError

VERSION = b"xtts_schema_version"


@pytest.fixture
def folder(recorded: Any) -> Path:
    recorded.add("one", ["bom dia", "boa tarde"])
    recorded.add("two", ["boa noite"])
    return recorded.store.metadata("one").parent


def rewritten(path: Path, version: int, without: Collection[str] = ()) -> Path:
    table = pq.read_table(path)
    kept = table.select([name for name in table.column_names if name not in without])
    pq.write_table(kept.replace_schema_metadata({VERSION: str(version)}), path)
    return path


def test_every_column_says_what_it_is() -> None:
    assert all(field.metadata[b"description"] for field in METADATA_SCHEMA)


def test_the_folder_reads_as_one_table_with_pandas_arrow_and_duckdb(folder: Path) -> None:
    wanted = ["one_00001", "one_00002", "two_00001"]
    assert sorted(pd.read_parquet(folder)["clip_id"]) == wanted
    found = pyarrow.dataset.dataset(folder).to_table()
    assert sorted(found["clip_id"].to_pylist()) == wanted
    assert found.schema.equals(METADATA_SCHEMA)
    rows = duckdb.sql(f"SELECT clip_id FROM '{folder}/*.parquet' ORDER BY clip_id").fetchall()
    assert [name for (name,) in rows] == wanted


def test_a_file_of_an_earlier_version_is_upgraded_while_it_is_read(folder: Path) -> None:
    path = rewritten(folder / "one.parquet", 3, {"characters_per_s", "text_guards"})
    table = read_metadata(path)
    assert table.schema.equals(METADATA_SCHEMA, check_metadata=True)
    assert table["characters_per_s"].null_count == len(table) == 2
    assert table["clip_id"].to_pylist() == ["one_00001", "one_00002"]


def test_a_file_of_a_later_version_is_refused(folder: Path) -> None:
    path = rewritten(folder / "one.parquet", SCHEMA_VERSION + 1)
    with pytest.raises(DatasetError, match="Update the platform") as refused:
        read_metadata(path)
    assert str(path) in str(refused.value)


def test_a_file_that_nobody_can_read_any_more_is_to_be_made_again(folder: Path) -> None:
    path = rewritten(folder / "one.parquet", 1)
    with pytest.raises(DatasetError, match="Materialise metadata of this video again"):
        read_metadata(path)


def test_a_column_that_its_version_has_may_not_be_missing(folder: Path) -> None:
    path = rewritten(folder / "one.parquet", SCHEMA_VERSION, {"text"})
    with pytest.raises(DatasetError, match="lacks columns: text"):
        read_metadata(path)


def test_columns_come_in_the_order_they_are_asked_for(folder: Path) -> None:
    table = read_metadata(folder / "one.parquet", ["text", "clip_id"])
    assert table.column_names == ["text", "clip_id"]


def test_a_table_of_other_types_is_not_misread(folder: Path) -> None:
    path = folder / "one.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("duration_s")
    words = pa.array(["long"] * len(table))
    pq.write_table(table.set_column(at, "duration_s", words), path)
    with pytest.raises(DatasetError, match=r"another type: duration_s \(string\)"):
        read_metadata(path)
