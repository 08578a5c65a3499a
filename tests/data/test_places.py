"""Names of files, here and elsewhere."""

import pytest

from uacs.data import places
from uacs.errors import BadInput

TABLE = "s3://bucket/sims/label.csv?endpoint_override=127.0.0.1:9000&scheme=http"


@pytest.mark.parametrize(
    ("place", "name", "meant"),
    [
        ("/data/a.csv", "clips/1.mp4", "/data/clips/1.mp4"),
        ("a.csv", "1.mp4", "1.mp4"),
        ("/data/a.csv", "/else/1.mp4", "/else/1.mp4"),
        ("/data/a.csv", "gs://bucket/1.mp4", "gs://bucket/1.mp4"),
        ("s3://bucket/a.csv", "Raw", "s3://bucket/Raw"),
        (TABLE, "Raw", "s3://bucket/sims/Raw?endpoint_override=127.0.0.1:9000&scheme=http"),
        ("/data/what?.csv", "1.mp4", "/data/1.mp4"),
    ],
)
def test_a_name_means_what_it_means_beside_the_table(place, name, meant):
    assert places.beside(place, name) == meant


def test_a_uris_options_are_not_its_name():
    assert places.within("s3://bucket/Raw?scheme=http", "v/1.mp4") == "s3://bucket/Raw/v/1.mp4?scheme=http"
    assert places.ends("s3://bucket/a.parquet?region=x.csv", ".parquet") and not places.ends(TABLE, "http")
    assert places.stem(TABLE) == "label" and places.stem("/data/folder/") == "folder"


def test_a_filesystem_that_nobody_knows_is_named():
    with pytest.raises(BadInput, match="nowhere://bucket/a.csv: pyarrow cannot reach it"):
        places.is_file("nowhere://bucket/a.csv")
