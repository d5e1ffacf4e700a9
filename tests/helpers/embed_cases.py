"""The command that the tests of ``embed`` run, and what its file says about itself."""

import json

from pyarrow import parquet

from timm_landmark.cli import main as cli

ROWS, PHOTOS = 4, 18  # five parts
PARTS = 5


def embed(run, photos, output, *options):
    words = ["embed", run, photos, "--output", output, "--device", "cpu", "-b", 3, "-j", 2, *options]
    return cli([*map(str, words)])


def about(file):
    return json.loads(parquet.read_schema(file).metadata[b"timm_landmark"])
