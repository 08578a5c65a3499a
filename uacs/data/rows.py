"""Rows of CSV and Parquet files: what a table is read by, whatever its columns mean.

A row comes as a place to name it by (`line 7`, `row 7`) and a dictionary of the columns that were asked for.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from uacs.data import places
from uacs.data.places import Place
from uacs.data.prepared import MODALITIES
from uacs.errors import BadInput, shown

ROWS_AT_ONCE = 256
NUMBERS_AT_ONCE = 2**26
LONGEST_FIELD = 2**24  # characters
MOST_NUMBERS = 2**27  # of a sample in one modality: hours, and a file of 1 kB can hold more

DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)  # what pyarrow raises for it

CUT_HALF = re.compile(rb"\xed[\xa0-\xbf]?\Z")
"""The beginning of a surrogate's three bytes, which some programs write as UTF-8."""

Row = dict[str, Any]


def open_rows(place: Place) -> "CsvRows | ParquetRows":
    """The reader of a table; a folder is one of Parquet files."""
    parquet = places.ends(place, ".parquet", ".pq") or places.is_folder(place)
    return ParquetRows(place) if parquet else CsvRows(place)


class CsvRows:
    """Rows of a CSV file: strings, None where empty; halves of characters are in them as they stand there."""

    count = None

    def __init__(self, place: Place):
        self.place = place
        _, self.names = next(_csv_lines(place), (1, []))
        if not self.names:
            raise BadInput(f"{place}: not a CSV file (nothing is in it); its first line names the columns")
        if len(self.names) == 1 and any(mark in self.names[0] for mark in ";\t|"):
            raise BadInput(f"{place}: its columns are not parted by commas; save it with commas")

    def check(self, column: dict[str, str]) -> None:
        """Every column holds strings."""

    def rows(self, column: dict[str, str]) -> Iterator[tuple[str, Row]]:
        at = {ours: self.names.index(theirs) for ours, theirs in column.items()}
        lines = _csv_lines(self.place)
        next(lines)
        for line, fields in lines:
            if len(fields) != len(self.names):
                fault = f"{len(fields)} fields where the header has {len(self.names)}"
                raise BadInput(f"{self.place}, line {line}: {fault}; put text with commas in quotes")
            yield f"line {line}", {ours: fields[i] or None for ours, i in at.items()}


def _csv_lines(place: Place) -> Iterator[tuple[int, list[str]]]:
    """The header of a CSV file and every row that is not blank: the line on which it begins, and its fields."""
    line = 1
    csv.field_size_limit(LONGEST_FIELD)
    try:
        with places.open_stream(place) as file, _text(file) as text:
            reader = csv.reader(text, strict=True)
            while (fields := next(reader, None)) is not None:
                if len(fields) > 1 or "".join(fields).strip():
                    yield line, fields
                line = reader.line_num + 1
    except FileNotFoundError:
        raise BadInput(f"{place}: no such file; name a label.csv or the folder that holds it") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{place}: not a CSV file in UTF-8 ({places.reason(error)}); save it as UTF-8") from None
    except csv.Error as error:
        mend = "put text in quotes, and write a quote within it twice"
        raise BadInput(f"{place}, line {line}: not a CSV file ({places.reason(error)}); {mend}") from None
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{place}: cannot be read ({places.reason(error)}); copy or make it anew") from None


def _text(file: pa.NativeFile) -> io.TextIOWrapper:
    return io.TextIOWrapper(_WholeHalves(file), encoding="utf-8-sig", errors="surrogatepass", newline="")


class _WholeHalves(io.BufferedIOBase):
    """A stream of which no read ends within a surrogate: Python's decoder would not wait for its last bytes."""

    name = "a table"

    def __init__(self, file: pa.NativeFile):
        self._file = file

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        while CUT_HALF.search(data[-2:]) and (more := self._file.read(1)):
            data += more
        return data


class ParquetRows:
    """Rows of a Parquet file, or of all in a folder by name; features are float arrays."""

    def __init__(self, place: Place):
        self.place = place
        self._filesystem, path = places.resolve(place)
        inside = _parquet_files(place) if places.is_folder(place) else []
        self._files = {places.within(path, name): places.within(place, shown(name, most=500)) for name in inside}
        self._files = self._files or {path: str(place)}
        try:
            table = ds.dataset(list(self._files), filesystem=self._filesystem, format="parquet")
            self.count, self._schema = table.count_rows(), table.schema
            self.names = self._schema.names
        except FileNotFoundError:
            raise BadInput(f"{place}: no such file; name a Parquet file or a folder of them") from None
        except DAMAGE as error:
            raise BadInput(f"{place}: not a Parquet file or a folder of them ({places.reason(error)})") from None

    def check(self, column: dict[str, str]) -> None:
        _check_types(next(iter(self._files.values())), self._schema, column)

    def rows(self, column: dict[str, str]) -> Iterator[tuple[str, Row]]:
        number = 0
        for path, name in self._files.items():
            try:
                with self._filesystem.open_input_file(path) as file:
                    parquet = pq.ParquetFile(file)
                    _check_types(name, parquet.schema_arrow, column)
                    for batch in _batches(parquet, column, name):
                        for i in range(batch.num_rows):
                            number += 1
                            yield f"row {number}", _row(batch, i, column, f"{self.place}, row {number}")
            except DAMAGE as error:
                reason = places.reason(error)
                raise BadInput(f"{name}, after row {number}: damaged ({reason}); copy or make it anew") from None


def _parquet_files(folder: Place) -> list[str]:
    """The Parquet files below a folder by name, without what is hidden or set aside."""
    found = sorted(places.files_under(folder, ".parquet"))
    names = [name for name in found if not any(part.startswith((".", "_")) for part in name.split("/"))]
    if not names:
        raise BadInput(f"{folder}: no Parquet file in it; name a table or a folder of Parquet files")
    return names


def _check_types(name: str, schema: pa.Schema, column: dict[str, str]) -> None:
    """Raises `BadInput` for a file that lacks a column or has one of a type that says nothing to us."""
    for ours, theirs in column.items():
        if schema.names.count(theirs) != 1:
            there = "two columns" if theirs in schema.names else "no column"
            raise BadInput(f"{name}: {there} {shown(theirs)}; every file of a table needs the same columns")
        kind = schema.field(theirs).type
        if not _fits(ours, kind):
            wanted = "lists of numbers, or paths of .npy files" if ours in MODALITIES else "numbers, or text"
            raise BadInput(f"{name}: column {shown(theirs)} is of type {shown(kind)}; {ours} takes {wanted}")


def _fits(ours: str, kind: pa.DataType) -> bool:
    """Whether a column can be of that type."""
    if pa.types.is_dictionary(kind):
        return _fits(ours, kind.value_type)
    if ours in MODALITIES and _is_list(kind):
        inner = kind.value_type.value_type if _is_list(kind.value_type) else kind.value_type
        return pa.types.is_null(inner) or _is_number(inner)
    if ours in MODALITIES:
        return pa.types.is_null(kind) or str(kind) in ("string", "large_string", "string_view")
    if ours.endswith("_steps"):
        return pa.types.is_null(kind) or _is_number(kind)
    return not pa.types.is_nested(kind) and "binary" not in str(kind)


def _batches(file: pq.ParquetFile, column: dict[str, str], name: str) -> Iterator[pa.RecordBatch]:
    """All rows, one at a time where they hold much; raises `BadInput` where a sample must hold too much."""
    features = tuple(f"{column[m]}." for m in MODALITIES if m in column)
    for i in range(file.num_row_groups):
        group = file.metadata.row_group(i)
        leaves = [group.column(j) for j in range(group.num_columns)]
        numbers = sum(leaf.num_values for leaf in leaves if f"{leaf.path_in_schema}.".startswith(features))
        if numbers > MOST_NUMBERS * len(features) * group.num_rows:
            rows = f"row group {i + 1} with {numbers} numbers in {group.num_rows} rows"
            raise BadInput(f"{name}: {rows}, and a sample may have {MOST_NUMBERS}; cut it in pieces")
        at_once = ROWS_AT_ONCE if numbers <= NUMBERS_AT_ONCE else 1
        yield from file.iter_batches(at_once, row_groups=[i], columns=list(column.values()))


def _row(batch: pa.RecordBatch, i: int, column: dict[str, str], where: str) -> Row:
    row = {}
    for ours, theirs in column.items():
        try:
            row[ours] = _value(batch.column(theirs)[i])
        except UnicodeDecodeError:
            raise BadInput(f"{where}: column {shown(theirs)} holds text that is not UTF-8; write it as UTF-8") from None
    return row


def _value(cell: pa.Scalar) -> Any:
    """Plain values as Python's; lists of numbers as float arrays, lists of such lists as (T, size)."""
    if not cell.is_valid or not _is_list(cell.type):
        return _plain(cell)
    if not _is_list(cell.type.value_type):
        return _numbers(cell.values)
    sizes = set(cell.values.value_lengths().unique().to_pylist()) or {0}
    if len(sizes) > 1 or None in sizes:
        return np.empty((0, 0, 0), np.float32)  # ragged: no sequence of steps, and said to be none
    return _numbers(cell.values.flatten()).reshape(len(cell.values), sizes.pop())


def _plain(cell: pa.Scalar) -> Any:
    """A value as Python's, halves of characters as they stand there; `UnicodeDecodeError` for what is no UTF-8."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        text = cell.value if isinstance(cell, pa.DictionaryScalar) else cell
        return text.as_buffer().to_pybytes().decode("utf-8", "surrogatepass")


def _numbers(values: pa.Array) -> np.ndarray:
    values = values.cast(pa.float32()) if pa.types.is_null(values.type) else values
    return values.to_numpy(zero_copy_only=False)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
