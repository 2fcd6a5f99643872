"""The scripts of `benchmarks/pin`: hashes by content, and the comparison of rows."""

import importlib.util
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks" / "pin"


@pytest.fixture(scope="module")
def rows():
    """The module of hashes, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("pin_rows", FOLDER / "rows.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_parquet_is_hashed_by_columns_and_values(rows, tmp_path):
    table = pa.table({"clip": ["a", "b"], "score": [0.1, None], "train_seconds": [1.0, 2.0]})

    def digest(name, content, **options):
        pq.write_table(content, tmp_path / name, **options)
        return rows.of_parquet(tmp_path / name)

    known = digest("a.parquet", table)
    assert len(known) == rows.DIGITS
    assert digest("b.parquet", table.replace_schema_metadata({"k": "v"}), compression="zstd") == known
    slower = table.set_column(2, "train_seconds", pa.array([3.0, 4.0]))
    assert digest("c.parquet", slower) == known
    assert digest("d.parquet", table.set_column(1, "score", pa.array([0.1, 0.0]))) != known
    assert digest("e.parquet", table.rename_columns(["clip", "value", "train_seconds"])) != known
    assert digest("f.parquet", table.take([1, 0])) != known


def test_a_folder_has_a_row_per_result_and_per_finished_stage(rows, tmp_path):
    (tmp_path / "fan" / ".done").mkdir(parents=True)
    (tmp_path / "fan" / ".done" / "train.json").write_text('{"signature": "0123456789abcdefghij"}')
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "done.json").write_text(
        '{"records": {"score-knn": {"signature": "9876543210abcdefghij"}}}'
    )
    (tmp_path / "fan" / "last.ckpt").write_bytes(b"\0")
    (tmp_path / "fan" / "train.log").write_text("a time")
    (tmp_path / "fan" / "metrics.csv").write_text("epoch,loss,seconds\n1,0.5,3.0\n")
    found = rows.collect(tmp_path, tmp_path)
    assert found["fan#train"] == "0123456789abcdef"
    assert found["all#score-knn"] == "9876543210abcdef"
    assert found["fan/last.ckpt"] == "present"
    assert found.keys() == {"fan#train", "all#score-knn", "fan/last.ckpt", "fan/metrics.csv"}
    (tmp_path / "fan" / "metrics.csv").write_text("epoch,loss,seconds\n1,0.5,4.0\n")
    assert rows.collect(tmp_path, tmp_path) == found


def test_rows_are_read_back_and_compared(rows, tmp_path):
    before = {"b": "present", "a": "00000000000000aa", "c d": "00000000000000cc"}
    rows.write_rows(tmp_path / "pin.txt", before, ["commit x"])
    assert rows.read_rows(tmp_path / "pin.txt") == before
    assert rows.compare_rows(before, before) == []
    found = rows.compare_rows(before, {"a": "00000000000000ab", "b": "present", "e": "00000000000000ee"})
    assert [line.split() for line in found] == [
        ["changed", "00000000000000aa", "->", "00000000000000ab", "a"],
        ["missing", "00000000000000cc", "c", "d"],
        ["new", "00000000000000ee", "e"],
    ]
