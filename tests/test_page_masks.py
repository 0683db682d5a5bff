"""The page's own reading and writing of masks (i2v/app/static/rle.js), in Node, against pycocotools."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from i2v import app

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")

SCRIPT = """
const source = await import("node:fs").then((fs) => fs.readFileSync(process.argv[1], "utf8"));
const { columnRuns, encodeAlpha, outlineSegments } = await import("data:text/javascript," + encodeURIComponent(source));
let input = "";
for await (const chunk of process.stdin) input += chunk;
console.log(JSON.stringify(JSON.parse(input).map(({ rle }) => {
  const runs = columnRuns(rle);
  const [height, width] = rle.size;
  const data = new Uint8ClampedArray(4 * height * width);
  for (let i = 0; i < runs.length; i += 3) {
    for (let y = runs[i + 1]; y < runs[i + 2]; y++) data[4 * (y * width + runs[i]) + 3] = 255;
  }
  const alpha = [...data].filter((_, i) => i % 4 === 3);
  return { alpha, encoded: encodeAlpha({ width, height, data }), outline: outlineSegments(runs) };
})));
"""


def test_masks_are_read_written_and_outlined() -> None:
    rng = np.random.default_rng(0)
    masks = [np.zeros((5, 7)), np.ones((5, 7)), np.ones((1, 3)), *(rng.random((12, 9)) < share for share in (0.1, 0.5, 0.9))]
    big = np.zeros((700, 900))
    big[100:600, 50:800] = 1
    big[650:, 850:] = 1
    encoded = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in [*masks, big]]
    rles = [{"rle": {"size": rle["size"], "counts": rle["counts"].decode()}} for rle in encoded]
    script = Path(app.__file__).parent / "static" / "rle.js"
    command = ["node", "--input-type=module", "-e", SCRIPT, str(script)]
    results = json.loads(subprocess.run(command, input=json.dumps(rles), capture_output=True, text=True, check=True).stdout)

    for mask, result in zip([*masks, big], results, strict=True):
        np.testing.assert_array_equal(np.reshape(result["alpha"], mask.shape) > 0, mask > 0)
        height, width = mask.shape
        written = coco.decode(coco.frPyObjects(result["encoded"], height, width))
        np.testing.assert_array_equal(written > 0, mask > 0)
        # Lines between the columns and between the rows that the outline marks, as a picture of its own.
        padded = np.pad(mask > 0, 1)
        columns = np.zeros((height, width + 1), bool)
        rows = np.zeros((height + 1, width), int)
        for x0, y0, x1, y1 in np.reshape(result["outline"], (-1, 4)):
            if x0 == x1:
                columns[y0:y1, x0] = True
            else:
                rows[y0, x0:x1] += 1
        np.testing.assert_array_equal(columns, padded[1:-1, 1:] != padded[1:-1, :-1])
        np.testing.assert_array_equal(rows, padded[1:, 1:-1] != padded[:-1, 1:-1])
