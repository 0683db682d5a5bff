// The timeline: thumbnails, the tracker's confidence, one bar per object, prompts. Its cost depends on its width in pixels,
// not on the number of frames.
import { byId, uiScale } from "./dom.js";
import { goTo, on, sessionPath, state } from "./state.js";

const MAX_THUMBNAILS = 300;
const MIN_INTERVAL_MS = 100; // while masks stream in
const MAX_LOADING = 2; // the browser has six connections, and the frames come first

const canvas = byId("timeline-canvas");
const context = canvas.getContext("2d");
const slider = byId("timeline");
const playhead = byId("playhead");
const thumbnails = new Map(); // frame -> Image
let session = null;
let loading = 0;
let wanted = []; // frames whose thumbnails are visible but not here
let scheduled = false;
let lastDrawn = 0;
let hatch = null;
let unit = 1; // CSS pixels; more where the text is larger
let [strip, curve, gap] = [0, 0, 0]; // heights in CSS pixels

function schedule() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(() => requestAnimationFrame(() => {
    scheduled = false;
    lastDrawn = performance.now();
    draw();
  }), Math.max(0, lastDrawn + MIN_INTERVAL_MS - performance.now()));
}

/** Height of an object's row with its gap. All rows have the same height together until they would be too thin. */
const rowPitch = () => Math.max(4, Math.min(16 * unit, Math.floor(rowsHeight() / Math.max(1, state.session.objects.length))));
const rowsHeight = () => 64 * unit; // constant, so that a new object does not move the picture

function draw() {
  if (!state.session || !slider.clientWidth) return;
  if (session !== state.session.id) {
    session = state.session.id;
    thumbnails.clear();
  }
  unit = uiScale();
  [strip, curve, gap] = [44, 36, 4].map((height) => Math.round(height * unit));
  const width = slider.clientWidth;
  const height = strip + curve + 2 * gap + Math.max(rowsHeight(), state.session.objects.length * rowPitch());
  const density = devicePixelRatio;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  canvas.style.height = `${height}px`;
  context.setTransform(density, 0, 0, density, 0, 0);
  drawStrip(width);
  drawCurves(width);
  state.session.objects.forEach((object, row) => drawRow(object, strip + curve + 2 * gap + row * rowPitch(), width));
  movePlayhead();
}

function drawStrip(width) {
  const { num_frames: numFrames, width: videoWidth, height: videoHeight } = state.session;
  const slots = Math.min(numFrames, Math.max(1, Math.round(width / ((strip * videoWidth) / videoHeight))));
  const slotWidth = width / slots;
  wanted = [];
  for (let slot = 0; slot < slots; slot++) {
    const frame = Math.floor(((slot + 0.5) / slots) * numFrames);
    const picture = thumbnails.get(frame);
    if (!picture) wanted.push(frame);
    else if (picture.complete && picture.naturalWidth) {
      // Crops the picture to the slot's shape.
      const part = Math.min(1, slotWidth / strip / (picture.naturalWidth / picture.naturalHeight));
      const shown = picture.naturalWidth * part;
      context.drawImage(picture, (picture.naturalWidth - shown) / 2, 0, shown, picture.naturalHeight,
        slot * slotWidth, 0, slotWidth, strip);
    }
  }
  loadThumbnails();
  context.fillStyle = "#ffd54f";
  const frames = new Set(state.session.objects.flatMap(({ prompts }) => prompts.map(({ frame }) => frame)));
  for (const frame of frames) drawMark(((frame + 0.5) / numFrames) * width, strip - 6 * unit, 6 * unit);
}

function loadThumbnails() {
  while (loading < MAX_LOADING && wanted.length) {
    const frame = wanted.shift();
    const picture = new Image();
    thumbnails.set(frame, picture);
    if (thumbnails.size > MAX_THUMBNAILS) thumbnails.delete(thumbnails.keys().next().value);
    loading++;
    picture.onload = () => {
      loading--;
      schedule();
    };
    picture.onerror = () => {
      loading--;
      setTimeout(() => { // not decoded yet, or no connection
        if (thumbnails.get(frame) === picture) thumbnails.delete(frame);
        schedule();
      }, 2000);
      loadThumbnails();
    };
    picture.src = `/api${sessionPath()}/thumbnails/${frame}`;
  }
}

function drawMark(x, y, size) {
  context.beginPath();
  context.moveTo(x, y - size);
  context.lineTo(x + size, y);
  context.lineTo(x, y + size);
  context.lineTo(x - size, y);
  context.closePath();
  context.fill();
  context.strokeStyle = "#000";
  context.lineWidth = 1;
  context.stroke();
}

/** First frame of a column of pixels, and the one after its last. */
function framesOf(column, width) {
  const { num_frames: numFrames } = state.session;
  const first = Math.floor((column / width) * numFrames);
  return [first, Math.max(first + 1, Math.min(numFrames, Math.floor(((column + 1) / width) * numFrames)))];
}

/** The confidence in the active object, in white, over the least one of all objects. */
function drawCurves(width) {
  const top = strip + gap;
  context.fillStyle = "#ffffff12";
  context.fillRect(0, top, width, curve);
  const active = state.timeline.get(state.active);
  for (const [lines, colour] of [[[...state.timeline.values()], "#7d8ea3"], [active ? [active] : [], "#fff"]]) {
    const path = new Path2D();
    let drawing = false;
    for (let column = 0; column < width; column++) {
      const [first, end] = framesOf(column, width);
      let least = Infinity; // doubtful frames must not vanish between confident ones
      for (const { confidence } of lines) {
        for (let frame = first; frame < end; frame++) least = Math.min(least, confidence[frame] ?? Infinity);
      }
      if (least < Infinity) path[drawing ? "lineTo" : "moveTo"](column + 0.5, top + 2 + (1 - least) * (curve - 4));
      drawing = least < Infinity;
    }
    context.lineWidth = 2 * unit;
    context.strokeStyle = colour;
    context.stroke(path);
  }
}

function drawRow({ id, colour, hidden, prompts }, top, width) {
  const line = state.timeline.get(id);
  const height = rowPitch() - 1;
  context.fillStyle = id === state.active ? "#ffffff30" : "#ffffff12";
  context.fillRect(0, top, width, height);
  context.globalAlpha = hidden ? 0.35 : 1;
  // 0: no mask, 1: tracked but not in sight, 2: present, 3: out of date
  const stateOf = (column) => {
    let most = 0;
    for (let [frame, end] = framesOf(column, width); frame < end; frame++) {
      const area = line?.area[frame] ?? null;
      if (area !== null) most = Math.max(most, line.outdated.has(frame) ? 3 : area > 0 ? 2 : 1);
    }
    return most;
  };
  let start = 0;
  let current = line ? stateOf(0) : 0;
  for (let column = 1; line && column <= width; column++) {
    const next = column < width ? stateOf(column) : -1;
    if (next === current) continue;
    context.fillStyle = colour;
    if (current === 1) context.fillRect(start, top + height - 1, column - start, 1);
    else if (current) context.fillRect(start, top, column - start, height);
    if (current === 3) {
      context.fillStyle = hatch ??= hatchPattern();
      context.fillRect(start, top, column - start, height);
    }
    start = column;
    current = next;
  }
  context.globalAlpha = 1;
  context.fillStyle = "#ffd54f";
  const { num_frames: numFrames } = state.session;
  for (const { frame } of prompts) drawMark(((frame + 0.5) / numFrames) * width, top + height / 2, Math.max(2, height / 2));
}

function hatchPattern() {
  const tile = new OffscreenCanvas(6, 6);
  const pen = tile.getContext("2d");
  pen.fillStyle = "#000b";
  pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = "#fffc";
  pen.lineWidth = 1.2;
  for (const shift of [-6, 0, 6]) {
    pen.moveTo(shift, 6);
    pen.lineTo(shift + 6, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

function movePlayhead() {
  const { num_frames: numFrames } = state.session;
  const width = slider.clientWidth / numFrames;
  playhead.style.width = `${Math.max(2, width)}px`;
  playhead.style.transform = `translateX(${Math.min(state.frame * width, slider.clientWidth - 2)}px)`;
  slider.setAttribute("aria-valuemax", numFrames - 1);
  slider.setAttribute("aria-valuenow", state.frame);
  slider.setAttribute("aria-valuetext", `Frame ${state.frame} of ${numFrames}`);
}

function scrub(event) {
  const { left, width } = slider.getBoundingClientRect();
  goTo(Math.floor(((event.clientX - left) / width) * state.session.num_frames));
}

/** Connects the timeline with the state. */
export function initTimeline() {
  new ResizeObserver(schedule).observe(slider);
  on("timeline active session", schedule);
  on("frame session", () => state.session && movePlayhead());
  slider.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    slider.setPointerCapture(event.pointerId);
    scrub(event);
  });
  slider.addEventListener("pointermove", (event) => slider.hasPointerCapture(event.pointerId) && scrub(event));
}
