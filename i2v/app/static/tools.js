// What the mouse, fingers, a pen and the keyboard's cursor do on the canvas: clicks, boxes, strokes, pan and zoom.
import { box, changePrompt, click } from "./edits.js";
import { byId, say } from "./dom.js";
import { masksAreFresh, peekMasks } from "./pictures.js";
import { columnRuns, encodeAlpha } from "./rle.js";
import { goTo, objectById, on, setTool, state } from "./state.js";
import { overlay, pan, redraw, redrawMasks, reveal, shownFrame, toVideo, view, zoom } from "./viewer.js";

const DRAG_START = { mouse: 4, pen: 6, touch: 10 }; // CSS pixels that tell a drag from a click
const KEY_STEP = 10; // CSS pixels per press of an arrow key

/** The space bar turns drags into pans; used: there was one, so releasing the bar does not play. */
export const space = { held: false, used: false };

const canvas = byId("canvas");
const pointers = new Map(); // id -> [x, y] of each finger, pen or button that is down
let gesture = null; // {kind: "press" | "box" | "stroke" | "pan" | "pinch", ...}
let lastStrokePoint = null;

const clamp = ([x, y]) => [Math.max(0, Math.min(state.session.width, x)), Math.max(0, Math.min(state.session.height, y))];
const isInside = ([x, y]) => x >= 0 && y >= 0 && x <= state.session.width && y <= state.session.height;
const round = (values) => values.map((value) => Math.round(value * 100) / 100);

/** Prompts go to the frame that the user sees, which the wanted one may have left behind. Returns whether there is one. */
function holdFrame() {
  const frame = shownFrame();
  if (frame < 0) {
    say("The frame is still on its way.");
    return false;
  }
  if (frame !== state.frame || state.playing || state.following) goTo(frame);
  return true;
}

function clickAt(at, negative) {
  if (!isInside(at)) return;
  const pixel = clamp(at).map((value, i) => Math.min(value, (i ? state.session.height : state.session.width) - 0.01));
  if (negative && state.active === null) say("A first click that excludes finds nothing: click on the object first.");
  else click(...round(pixel), negative ? 0 : 1);
}

function finishBox() {
  const [x0, y0, x1, y1] = overlay.box;
  overlay.box = null;
  redraw();
  const corners = round([...clamp([Math.min(x0, x1), Math.min(y0, y1)]), ...clamp([Math.max(x0, x1), Math.max(y0, y1)])]);
  if (corners[2] - corners[0] < 1 || corners[3] - corners[1] < 1) say("The box is too small.");
  else box(corners);
}

// Brush and eraser: a draft of the whole mask is painted at the video's resolution, and sent when the stroke ends.

function beginStroke(at, erase) {
  const { frame, active } = state;
  if (!masksAreFresh(frame)) {
    say("The masks of this frame are still on their way. Try again.");
    return false;
  }
  let draft = overlay.draft;
  if (!draft || draft.frame !== frame || draft.object !== active) {
    const { width, height } = state.session;
    draft = { frame, object: active, canvas: new OffscreenCanvas(width, height), waiting: 0 };
    draft.context = draft.canvas.getContext("2d", { willReadFrequently: true });
    draft.context.fillStyle = objectById(active)?.colour ?? "#ffffff";
    draft.context.strokeStyle = draft.context.fillStyle;
    draft.context.lineCap = "round";
    const mask = peekMasks(frame)?.objects[active];
    const runs = mask ? columnRuns(mask.rle) : [];
    for (let i = 0; i < runs.length; i += 3) draft.context.fillRect(runs[i], runs[i + 1], 1, runs[i + 2] - runs[i + 1]);
    overlay.draft = draft;
  }
  draft.context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  draft.context.lineWidth = state.brushSize;
  lastStrokePoint = at;
  extendStroke([at[0] + 0.01, at[1]]); // a stroke of no length is not painted
  redrawMasks();
  return true;
}

function extendStroke(at) {
  const { context } = overlay.draft;
  context.beginPath();
  context.moveTo(...lastStrokePoint);
  context.lineTo(...at);
  context.stroke();
  lastStrokePoint = at;
  redraw();
}

async function finishStroke() {
  const { draft } = overlay;
  lastStrokePoint = null;
  const mask = encodeAlpha(draft.context.getImageData(0, 0, draft.canvas.width, draft.canvas.height));
  draft.waiting++;
  await changePrompt(draft.frame, "The stroke was not applied", () => ({ points: [], mask }));
  draft.waiting--;
  if (!draft.waiting && !lastStrokePoint) dropDraft(draft);
}

function dropDraft(draft) {
  if (overlay.draft === draft) overlay.draft = null;
  redrawMasks();
}

/** Ends the box or stroke that is being drawn without applying it. @returns {boolean} whether there was one */
export function cancelGesture() {
  const drawing = Boolean(overlay.box || lastStrokePoint);
  if (lastStrokePoint) {
    lastStrokePoint = null;
    dropDraft(overlay.draft);
  }
  overlay.box = null;
  gesture = null;
  redraw();
  return drawing;
}

// Pointers.

function onDown(event) {
  if (!state.session) return;
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  if (pointers.size > 1) {
    cancelGesture();
    gesture = { kind: "pinch", ...pinchState() };
    return;
  }
  if (overlay.pointing) {
    cancelGesture();
    overlay.pointing = null;
  }
  const start = [event.clientX, event.clientY];
  if (event.button === 1 || space.held) {
    space.used = space.held;
    gesture = { kind: "pan", last: start };
    canvas.classList.add("panning");
    return;
  }
  if (event.button > 2 || !holdFrame()) return;
  const negative = event.button === 2 || event.altKey || state.negative;
  const at = toVideo(event);
  if (state.tool === "point") gesture = { kind: "press", start, at, negative, threshold: DRAG_START[event.pointerType] ?? 4 };
  else if (beginStroke(at, negative || state.tool === "eraser")) gesture = { kind: "stroke" };
}

function pinchState() {
  const [[x0, y0], [x1, y1]] = [...pointers.values()];
  return { distance: Math.hypot(x1 - x0, y1 - y0), middle: [(x0 + x1) / 2, (y0 + y1) / 2] };
}

function onMove(event) {
  if (!state.session) return;
  const at = toVideo(event);
  overlay.hover = event.pointerType === "touch" ? null : at;
  if (pointers.has(event.pointerId)) pointers.set(event.pointerId, [event.clientX, event.clientY]);
  if (gesture?.kind === "pinch") {
    if (pointers.size < 2) return;
    const next = pinchState();
    const { left, top } = canvas.getBoundingClientRect();
    pan(next.middle[0] - gesture.middle[0], next.middle[1] - gesture.middle[1]);
    zoom(next.distance / Math.max(1, gesture.distance), [next.middle[0] - left, next.middle[1] - top]);
    Object.assign(gesture, next);
  } else if (gesture?.kind === "pan") {
    pan(event.clientX - gesture.last[0], event.clientY - gesture.last[1]);
    gesture.last = [event.clientX, event.clientY];
  } else if (gesture?.kind === "stroke") {
    for (const step of event.getCoalescedEvents?.() ?? [event]) extendStroke(toVideo(step));
  } else if (gesture?.kind === "press") {
    const moved = Math.hypot(event.clientX - gesture.start[0], event.clientY - gesture.start[1]);
    if (moved > gesture.threshold && !gesture.negative) gesture.kind = "box";
  }
  if (gesture?.kind === "box") overlay.box = [...gesture.at, ...at];
  redraw();
}

function onUp(event) {
  if (!pointers.delete(event.pointerId)) return;
  const ended = gesture;
  if (ended?.kind === "pinch") {
    if (!pointers.size) gesture = null; // the finger that is left does not click
    return;
  }
  gesture = null;
  canvas.classList.remove("panning");
  if (ended?.kind === "press") clickAt(ended.at, ended.negative);
  else if (ended?.kind === "box") finishBox();
  else if (ended?.kind === "stroke") finishStroke();
}

function onWheel(event) {
  event.preventDefault();
  if (!state.session) return;
  const { left, top } = canvas.getBoundingClientRect();
  const distance = event.deltaY * (event.deltaMode ? 16 : 1);
  // Browsers send pinches on a touchpad as small wheel movements with Control.
  zoom(Math.exp(-distance * (event.ctrlKey ? 0.01 : 0.0015)), [event.clientX - left, event.clientY - top]);
}

// The keyboard's cursor.

/** Shows or hides the cursor that is moved with the arrow keys. */
export function togglePointing() {
  if (overlay.pointing) {
    cancelGesture();
    overlay.pointing = null;
  } else {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    overlay.pointing = clamp(toVideo({ clientX: left + width / 2, clientY: top + height / 2 }));
    canvas.focus({ preventScroll: true });
    say("Pointing: arrow keys move, Enter includes, Shift Enter excludes, X starts and ends a box.");
  }
  setTool({});
}

let positionTimer = 0;

/** Moves the keyboard's cursor. @param {number} x direction @param {number} y direction @param {boolean} fine one pixel */
export function movePointing(x, y, fine) {
  const step = fine ? 1 : Math.max(1, KEY_STEP / view.scale);
  const at = clamp([overlay.pointing[0] + x * step, overlay.pointing[1] + y * step]);
  overlay.pointing = at;
  if (overlay.box) overlay.box = [overlay.box[0], overlay.box[1], ...at];
  if (lastStrokePoint) extendStroke(at);
  reveal(...at);
  redraw();
  clearTimeout(positionTimer);
  positionTimer = setTimeout(() => say(`x ${Math.round(at[0])}, y ${Math.round(at[1])}`), 300);
}

/** Clicks at the keyboard's cursor; ends a box; starts and ends a stroke. @param {boolean} negative */
export function pressPointing(negative) {
  if (overlay.box) finishBox();
  else if (lastStrokePoint) finishStroke();
  else if (!holdFrame()) return;
  else if (state.tool === "point") clickAt(overlay.pointing, negative !== state.negative);
  else if (beginStroke(overlay.pointing, negative || state.negative || state.tool === "eraser")) say("Enter ends the stroke.");
}

/** Sets a corner of a box at the keyboard's cursor. */
export function cornerPointing() {
  if (overlay.box) finishBox();
  else if (holdFrame()) {
    overlay.box = [...overlay.pointing, ...overlay.pointing];
    say("Move to the opposite corner and press X.");
  }
}

/** Connects the canvas with the tools. */
export function initTools() {
  canvas.addEventListener("pointerdown", onDown);
  canvas.addEventListener("pointermove", onMove);
  canvas.addEventListener("pointerup", onUp);
  canvas.addEventListener("pointercancel", (event) => {
    pointers.delete(event.pointerId);
    cancelGesture();
  });
  canvas.addEventListener("pointerleave", () => {
    overlay.hover = null;
    redraw();
  });
  canvas.addEventListener("wheel", onWheel, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("auxclick", (event) => event.preventDefault()); // the middle button pastes or scrolls otherwise
  byId("brush-size").addEventListener("input", (event) => setTool({ brushSize: Number(event.target.value) }));
  on("active", () => {
    if (overlay.draft?.object === null) overlay.draft.object = state.active; // the stroke has made an object
  });
  on("tool", () => {
    byId("brush-size").value = state.brushSize;
    byId("brush-size-value").textContent = `${state.brushSize} px`;
    byId("brush-options").hidden = state.tool === "point";
    canvas.classList.toggle("brushing", state.tool !== "point");
  });
}
