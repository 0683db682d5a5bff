// The canvas: the frame, masks in the objects' colours, prompts, and the view (zoom and position).
import { request } from "./api.js";
import { complain, uiScale } from "./dom.js";
import { clearPictures, loadFrame, loadMasks, masksAreFresh, peekFrame, peekMasks, pin } from "./pictures.js";
import { columnRuns, outlineSegments } from "./rle.js";
import { emit, hasMasks, on, sessionPath, state } from "./state.js";

const FILL_OPACITY = 0.45;
const MAX_FILL_PIXELS = 2.5e6; // masks of larger videos are filled at a fraction of the resolution; outlines stay exact
const MAX_SCALE = 40; // CSS pixels per pixel of the video
const REST_MS = 150; // a frame that has been shown for so long is encoded ahead of the click
const MASK_WAIT_MS = 150; // a frame waits so long for its masks, so that they do not blink

const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d");
const fill = document.createElement("canvas");
const shapes = new WeakMap(); // RLE -> {runs, outline}

/** CSS pixels: a pixel (x, y) of the video is at (scale x + left, scale y + top) of the canvas. */
export const view = { scale: 1, left: 0, top: 0, fitted: true };

/** What the tools add to the picture: a box being dragged, a stroke being brushed, clicks on their way, the cursors. */
export const overlay = {
  box: null, // [x0, y0, x1, y1]
  draft: null, // {object, frame, canvas}
  ghosts: [], // {frame, points, box} that the server has not answered yet
  hover: null, // [x, y] of the mouse
  pointing: null, // [x, y] of the keyboard's cursor
};

let shown = null; // {session, frame, bitmap}
let loads = 0;
let requested = 0; // counts refreshes, so that an earlier frame that arrives late is not shown
let shownRequest = 0;
let drawScheduled = false;
let fillStale = true;
let restTimer = 0;
let unit = 1; // CSS pixels of a line; more where the text is larger

/** Index of the frame on the screen; -1 before the first one. @returns {number} */
export const shownFrame = () => (shown?.session === state.session?.id ? shown?.frame ?? -1 : -1);

/** Draws again before the next repaint. */
export function redraw() {
  if (drawScheduled) return;
  drawScheduled = true;
  requestAnimationFrame(() => {
    drawScheduled = false;
    draw();
  });
}

/** Draws again with other masks, colours or visibility. */
export function redrawMasks() {
  fillStale = true;
  redraw();
}

function present(frame, bitmap) {
  shown = { session: state.session.id, frame, bitmap };
  pin(frame);
  canvas.dataset.frame = frame;
  redrawMasks();
}

/** Takes the session's pictures off the screen and out of the memory. */
export function clearView() {
  shown = null;
  pin(-1);
  delete canvas.dataset.frame;
  clearPictures();
  redraw();
}

/** Brings the wanted frame and its masks to the screen, at once if both are here. */
export function refresh() {
  if (!state.session) return;
  const frame = state.frame;
  const ready = peekFrame(frame);
  if (ready && (masksAreFresh(frame) || (state.playing && !hasMasks(frame)))) {
    shownRequest = ++requested;
    present(frame, ready);
  } else if (loads < 2) {
    load(frame, ++requested, state.session.id); // while scrubbing, only the newest of the waiting ones will be loaded
  }
}

async function load(frame, number, session) {
  loads++;
  const current = () => state.session?.id === session;
  let arrived = false;
  try {
    const masks = loadMasks(frame).then(() => current() && shownFrame() === frame && redrawMasks());
    masks.catch((error) => current() && complain(`The masks of frame ${frame} did not arrive: ${error.message}`));
    const patience = new Promise((resolve) => setTimeout(resolve, MASK_WAIT_MS));
    const [bitmap] = await Promise.all([loadFrame(frame), Promise.race([masks.catch(() => {}), patience])]);
    arrived = true;
    if (current() && number > shownRequest) {
      shownRequest = number;
      present(frame, bitmap);
    }
  } catch (error) {
    if (current()) complain(`Frame ${frame} did not arrive: ${error.message}`);
  } finally {
    loads--;
    // Another frame is wanted by now, or this one came after a later one and is wanted again.
    if (current() && (state.frame !== frame || (arrived && shownFrame() !== frame))) refresh();
  }
}

function encodeAhead() {
  clearTimeout(restTimer);
  if (!state.session || state.playing || state.session.job) return;
  const path = sessionPath();
  restTimer = setTimeout(() => request("POST", `${path}/prepare`, { frame: state.frame }).catch(() => {
    // Only a help: the click will encode the frame, and will say what is wrong.
  }), REST_MS);
}

/** Outline of an encoded mask as a path, and its runs; computed once. */
function shapeOf(rle) {
  let shape = shapes.get(rle);
  if (!shape) {
    const runs = columnRuns(rle);
    const outline = new Path2D();
    const segments = outlineSegments(runs);
    for (let i = 0; i < segments.length; i += 4) {
      outline.moveTo(segments[i], segments[i + 1]);
      outline.lineTo(segments[i + 2], segments[i + 3]);
    }
    shape = { runs, outline };
    shapes.set(rle, shape);
  }
  return shape;
}

/** Masks to draw in the shown frame, the active object last. */
function visibleMasks() {
  if (!state.masksVisible || !shown) return [];
  const masks = peekMasks(shown.frame)?.objects ?? {};
  const drafted = overlay.draft?.frame === shown.frame ? overlay.draft.object : undefined;
  const objects = state.session.objects.filter(({ id, hidden }) => masks[id] && !hidden && id !== drafted);
  objects.sort((a, b) => (a.id === state.active) - (b.id === state.active));
  return objects.map(({ id, colour }) => ({ id, colour, outdated: masks[id].outdated, rle: masks[id].rle }));
}

function paintFill(masks) {
  const { width, height } = state.session;
  const step = Math.ceil(Math.sqrt((width * height) / MAX_FILL_PIXELS));
  const columns = Math.ceil(width / step);
  const rows = Math.ceil(height / step);
  const picture = new ImageData(columns, rows);
  const pixels = new Uint32Array(picture.data.buffer);
  for (const { colour, rle } of masks) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    const value = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    const { runs } = shapeOf(rle);
    for (let i = 0; i < runs.length; i += 3) {
      if (runs[i] % step) continue;
      const stop = Math.ceil(runs[i + 2] / step);
      for (let y = Math.ceil(runs[i + 1] / step), at = y * columns + runs[i] / step; y < stop; y++, at += columns) {
        pixels[at] = value;
      }
    }
  }
  fill.width = columns;
  fill.height = rows;
  fill.getContext("2d").putImageData(picture, 0, 0);
  fillStale = false;
}

function draw() {
  const density = canvas.width / Math.max(1, canvas.clientWidth);
  unit = uiScale();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!state.session || shownFrame() < 0) return;
  const { width, height } = state.session;
  const { scale, left, top } = view;
  const toVideo = () => context.setTransform(scale * density, 0, 0, scale * density, left * density, top * density);
  toVideo();
  context.imageSmoothingEnabled = scale * density < 6; // further in, pixels are wanted
  context.imageSmoothingQuality = "high";
  context.drawImage(shown.bitmap, 0, 0, width, height);

  const masks = visibleMasks();
  if (fillStale) paintFill(masks);
  context.globalAlpha = FILL_OPACITY;
  context.imageSmoothingEnabled = scale * density < 1;
  if (masks.length) context.drawImage(fill, 0, 0, width, height);
  if (overlay.draft?.frame === shown.frame) context.drawImage(overlay.draft.canvas, 0, 0, width, height);
  context.globalAlpha = 1;
  context.lineCap = "square";
  for (const { id, colour, outdated, rle } of masks) {
    const { outline } = shapeOf(rle);
    context.setLineDash(outdated ? [(6 * unit) / scale, (5 * unit) / scale] : []);
    context.strokeStyle = id === state.active ? "#fff" : "#000a";
    context.lineWidth = (3.5 * unit) / scale;
    context.stroke(outline);
    context.strokeStyle = colour;
    context.lineWidth = (2 * unit) / scale;
    context.stroke(outline);
  }
  context.setLineDash([]);
  context.setTransform(density, 0, 0, density, 0, 0);
  drawPrompts();
  drawCursors();
}

function drawPrompts() {
  for (const { id, colour, hidden, prompts } of state.session.objects) {
    if (hidden) continue;
    const prompt = prompts.find(({ frame }) => frame === shown.frame);
    if (!prompt) continue;
    const active = id === state.active;
    if (prompt.box) drawBox(prompt.box, colour);
    for (const point of prompt.points) drawPoint(point, (active ? 8 : 5) * unit, 1);
  }
  for (const { frame, points, box } of overlay.ghosts) {
    if (frame !== shown.frame) continue;
    if (box) drawBox(box, "#bbb");
    for (const point of points) drawPoint(point, 8 * unit, 0.6);
  }
  if (overlay.box) drawBox(overlay.box, "#fff");
}

function drawBox([x0, y0, x1, y1], colour) {
  const [left, top] = toScreen(Math.min(x0, x1), Math.min(y0, y1));
  const [right, bottom] = toScreen(Math.max(x0, x1), Math.max(y0, y1));
  for (const [style, lineWidth, dash] of [["#000", 4, []], ["#fff", 2, []], [colour, 2, [6, 6]]]) {
    context.setLineDash(dash);
    context.strokeStyle = style;
    context.lineWidth = lineWidth * unit;
    context.strokeRect(left, top, right - left, bottom - top);
  }
  context.setLineDash([]);
}

/** Positive points are green with a plus, negative ones red with a minus. */
function drawPoint([x, y, label], radius, opacity) {
  const [left, top] = toScreen(x, y);
  context.globalAlpha = opacity;
  context.beginPath();
  context.arc(left, top, radius, 0, 2 * Math.PI);
  context.fillStyle = label ? "#0a7d32" : "#c62828";
  context.fill();
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * unit;
  context.stroke();
  context.beginPath();
  const arm = radius / 2;
  context.moveTo(left - arm, top);
  context.lineTo(left + arm, top);
  if (label) {
    context.moveTo(left, top - arm);
    context.lineTo(left, top + arm);
  }
  context.stroke();
  context.globalAlpha = 1;
}

function drawCursors() {
  const brushing = state.tool !== "point";
  const at = overlay.pointing ?? (brushing ? overlay.hover : null);
  if (!at) return;
  const [left, top] = toScreen(...at);
  for (const [style, lineWidth] of [["#000", 4], [state.negative ? "#ff8a80" : "#fff", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = lineWidth * unit;
    context.beginPath();
    if (brushing) context.arc(left, top, Math.max(1, (state.brushSize / 2) * view.scale), 0, 2 * Math.PI);
    if (overlay.pointing) {
      for (const [x, y] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(left + 4 * unit * x, top + 4 * unit * y);
        context.lineTo(left + 18 * unit * x, top + 18 * unit * y);
      }
    }
    context.stroke();
  }
}

/** Position of a pixel of the video on the canvas, in CSS pixels. @param {number} x @param {number} y */
export const toScreen = (x, y) => [x * view.scale + view.left, y * view.scale + view.top];

/** Position in the video of a point of the window. @param {{clientX: number, clientY: number}} event */
export function toVideo({ clientX, clientY }) {
  const { left, top } = canvas.getBoundingClientRect();
  return [(clientX - left - view.left) / view.scale, (clientY - top - view.top) / view.scale];
}

/** Shows the whole frame. */
export function fit() {
  if (!state.session || !canvas.clientWidth) return;
  const { width, height } = state.session;
  view.scale = Math.min(canvas.clientWidth / width, canvas.clientHeight / height);
  view.left = (canvas.clientWidth - width * view.scale) / 2;
  view.top = (canvas.clientHeight - height * view.scale) / 2;
  view.fitted = true;
  changed();
}

/**
 * Zooms around a point that stays where it is.
 * @param {number} factor
 * @param {[number, number]} [centre] CSS pixels of the canvas; default: the keyboard's cursor, else the middle
 */
export function zoom(factor, centre) {
  const middle = () => [canvas.clientWidth / 2, canvas.clientHeight / 2];
  const [x, y] = centre ?? (overlay.pointing ? toScreen(...overlay.pointing) : middle());
  const smallest = Math.min(canvas.clientWidth / state.session.width, canvas.clientHeight / state.session.height) / 2;
  const scale = Math.max(smallest, Math.min(MAX_SCALE, view.scale * factor));
  view.left = x - ((x - view.left) * scale) / view.scale;
  view.top = y - ((y - view.top) * scale) / view.scale;
  view.scale = scale;
  view.fitted = false;
  keepInSight();
}

/** Moves the picture. @param {number} x CSS pixels @param {number} y CSS pixels */
export function pan(x, y) {
  view.left += x;
  view.top += y;
  view.fitted = false;
  keepInSight();
}

function keepInSight() {
  const margin = 40;
  const { width, height } = state.session;
  view.left = Math.max(margin - width * view.scale, Math.min(canvas.clientWidth - margin, view.left));
  view.top = Math.max(margin - height * view.scale, Math.min(canvas.clientHeight - margin, view.top));
  changed();
}

function changed() {
  emit("view");
  redraw();
}

/** Pans so that a point of the video is on the canvas. @param {number} x @param {number} y */
export function reveal(x, y) {
  const [left, top] = toScreen(x, y);
  const margin = 24;
  const beyond = (at, size) => (at < margin ? margin - at : at > size - margin ? size - margin - at : 0);
  const [moveX, moveY] = [beyond(left, canvas.clientWidth), beyond(top, canvas.clientHeight)];
  if (moveX || moveY) pan(moveX, moveY);
}

/** Connects the canvas with the state. */
export function initViewer() {
  new ResizeObserver(() => {
    canvas.width = Math.round(canvas.clientWidth * devicePixelRatio); // the pixels of the screen
    canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (view.fitted) fit();
    draw(); // at once: resizing has cleared the canvas
  }).observe(canvas);
  on("frame", refresh);
  on("frame job", encodeAhead);
  on("session active masks", redrawMasks);
  on("tool", redraw);
}
