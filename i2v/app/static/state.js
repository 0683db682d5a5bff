// What all parts of the page share, and the events that tell them of changes:
// "session" (objects, prompts, undo), "job", "frame" (which one is wanted), "active", "tool", "masks", "timeline", "view".

const hub = new EventTarget();

/** @type {{info: ?Object, session: ?Object, frame: number, active: ?number, tool: "point"|"brush"|"eraser", negative: boolean,
 *   brushSize: number, masksVisible: boolean, following: boolean, playing: boolean, timeline: Map<number, Object>}} */
export const state = {
  info: null, // of /api/info
  session: null, // as the server sent it
  frame: 0,
  active: null, // id of the object that prompts go to
  tool: "point",
  negative: false, // clicks exclude, brushes erase
  brushSize: 24, // diameter in pixels of the video
  masksVisible: true,
  following: false, // the shown frame follows the newest mask
  playing: false,
  timeline: new Map(), // object id -> area and confidence per frame, outdated frames
};

/** @param {string} names separated by spaces @param {() => void} listener */
export function on(names, listener) {
  for (const name of names.split(" ")) hub.addEventListener(name, () => listener());
}

/** @param {string} name */
export function emit(name) {
  hub.dispatchEvent(new Event(name));
}

/** Path of the open session below /api. @returns {string} */
export const sessionPath = () => `/sessions/${encodeURIComponent(state.session.id)}`;

/** @param {?number} id @returns {Object|undefined} */
export const objectById = (id) => state.session?.objects.find((object) => object.id === id);

/** @param {number} id @param {number} frame @returns {Object|undefined} */
export const promptAt = (id, frame) => objectById(id)?.prompts.find((prompt) => prompt.frame === frame);

/**
 * Takes over a session from the server, unless it is older than the one shown: replies and events overtake each other.
 * @param {Object} session
 * @param {{force?: boolean}} [options] force: also if it is older, as after a restart of the server
 */
export function applySession(session, { force = false } = {}) {
  const old = state.session;
  if (!force && (old?.id !== session.id || session.revision < old.revision)) return;
  state.session = session;
  if (!objectById(state.active)) state.active = session.objects.at(-1)?.id ?? null;
  state.frame = Math.min(state.frame, session.num_frames - 1);
  for (const id of state.timeline.keys()) if (!objectById(id)) state.timeline.delete(id);
  emit("session");
  emit("job");
  emit("timeline");
}

/**
 * @param {number} frame clamped to the video
 * @param {{byUser?: boolean}} [options] byUser: the user moved, so stop following the tracker and playing
 */
export function goTo(frame, { byUser = true } = {}) {
  if (!state.session) return;
  if (byUser) {
    state.following = false;
    state.playing = false;
  }
  state.frame = Math.max(0, Math.min(state.session.num_frames - 1, Math.round(frame)));
  emit("frame");
}

/** @param {?number} id */
export function activate(id) {
  state.active = id;
  emit("active");
}

/** @param {Partial<typeof state>} changes of the tool, its size or sign */
export function setTool(changes) {
  Object.assign(state, changes);
  emit("tool");
}

/** Frames with prompts, in order. @returns {number[]} */
export function promptedFrames() {
  const frames = new Set(state.session?.objects.flatMap((object) => object.prompts.map((prompt) => prompt.frame)));
  return [...frames].sort((a, b) => a - b);
}

/**
 * Takes over what is known about the masks of a frame.
 * @param {number} frame
 * @param {Object<string, {area: ?number, confidence: ?number, outdated: boolean}>} objects by id
 * @param {{complete: boolean}} options complete: objects that are not listed have no mask in this frame
 */
export function noteFrame(frame, objects, { complete }) {
  let changed = false;
  for (const { id } of state.session.objects) {
    const mask = objects[id];
    if (!mask && !complete) continue;
    const known = state.timeline.get(id);
    const wasOutdated = known?.outdated.has(frame) ?? false;
    if ((mask?.confidence ?? null) === (known?.confidence[frame] ?? null)
      && (mask?.area ?? null) === (known?.area[frame] ?? null) && (mask?.outdated ?? false) === wasOutdated) continue;
    changed = true;
    if (!state.timeline.has(id)) state.timeline.set(id, { area: [], confidence: [], outdated: new Set() });
    const line = state.timeline.get(id);
    line.area[frame] = mask ? mask.area : null;
    line.confidence[frame] = mask ? mask.confidence : null;
    if (mask?.outdated) line.outdated.add(frame);
    else line.outdated.delete(frame);
  }
  if (changed) emit("timeline");
}

/** Whether any object has a mask in a frame, as far as the timeline knows. @param {number} frame @returns {boolean} */
export const hasMasks = (frame) => [...state.timeline.values()].some(({ area }) => (area[frame] ?? null) !== null);

/**
 * The frame in which the tracker is least sure of an object that it found and that nobody has prompted there.
 * @returns {?number} null if there is none
 */
export function leastCertainFrame() {
  let least = Infinity;
  let found = null;
  for (const [id, { area, confidence }] of state.timeline) {
    if (state.active !== null && id !== state.active) continue;
    const prompted = new Set(objectById(id)?.prompts.map((prompt) => prompt.frame));
    confidence.forEach((value, frame) => {
      if (value !== null && value < least && area[frame] > 0 && !prompted.has(frame)) {
        least = value;
        found = frame;
      }
    });
  }
  return found;
}
