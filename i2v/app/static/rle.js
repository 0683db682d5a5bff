// Run-length encodings of masks as in COCO: column by column, starting with the number of zeros. Needs no browser.

/**
 * Run lengths of a compressed COCO string: 5 bits per character, differences to the run before the last one.
 * @param {string} text
 * @returns {number[]}
 */
function decodeCounts(text) {
  const counts = [];
  for (let i = 0; i < text.length;) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(i++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/**
 * The mask as vertical runs, each within one column: x, first y, y after the last one, repeated; sorted by x, then y.
 * @param {{size: [number, number], counts: string | number[]}} rle size is height, width
 * @returns {Int32Array}
 */
export function columnRuns(rle) {
  const height = rle.size[0];
  const counts = typeof rle.counts === "string" ? decodeCounts(rle.counts) : rle.counts;
  const runs = [];
  let position = 0;
  counts.forEach((count, i) => {
    const end = position + count;
    while (i % 2 && position < end) {
      const x = Math.floor(position / height);
      const stop = Math.min(end, (x + 1) * height);
      runs.push(x, position - x * height, stop - x * height);
      position = stop;
    }
    position = end;
  });
  return Int32Array.from(runs);
}

/**
 * The outline along the edges of the pixels, as line segments: x0, y0, x1, y1, repeated.
 * @param {Int32Array} runs from columnRuns
 * @returns {number[]}
 */
export function outlineSegments(runs) {
  const segments = [];
  let before = []; // where the column on the left changes between outside and inside
  let i = 0;
  let x = runs.length ? runs[0] : 0;
  while (i < runs.length || before.length) {
    const here = [];
    for (; i < runs.length && runs[i] === x; i += 3) {
      here.push(runs[i + 1], runs[i + 2]);
      segments.push(x, runs[i + 1], x + 1, runs[i + 1], x, runs[i + 2], x + 1, runs[i + 2]);
    }
    // Two neighbouring columns differ between every other pair of their changes, in order.
    const changes = before.concat(here).sort((a, b) => a - b);
    for (let k = 0; k < changes.length; k += 2) {
      if (changes[k] < changes[k + 1]) segments.push(x, changes[k], x, changes[k + 1]);
    }
    before = here;
    x = here.length || i >= runs.length ? x + 1 : runs[i];
  }
  return segments;
}

/**
 * Uncompressed run lengths of what is at least half opaque in a picture.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} picture RGBA, row by row, as from getImageData
 * @returns {{size: [number, number], counts: number[]}}
 */
export function encodeAlpha({ width, height, data }) {
  const counts = [];
  let inside = false;
  let length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, at = x * 4 + 3; y < height; y++, at += width * 4) {
      if (data[at] >= 128 !== inside) {
        counts.push(length);
        length = 0;
        inside = !inside;
      }
      length++;
    }
  }
  counts.push(length);
  return { size: [height, width], counts };
}
