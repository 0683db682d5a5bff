// Changes of the session. They are sent one after another: each click needs the answer to the last one.
import { ApiError, request } from "./api.js";
import { complain, forgive, say } from "./dom.js";
import { invalidateMasks, putMasks } from "./pictures.js";
import { activate, applySession, emit, goTo, objectById, promptAt, sessionPath, state } from "./state.js";
import { overlay, redraw, redrawMasks, refresh } from "./viewer.js";

let queue = Promise.resolve();
let running = 0;

/** Whether a change of this page is on its way, whose reply tells what it changes. @returns {boolean} */
export const isEditing = () => running > 0;

/**
 * Runs a change after those before it. If it fails, says so and fetches what the server has.
 * @param {string} what begins the error: "The click was not applied"
 * @param {(path: string) => Promise<*>} change gets the session's path
 * @returns {Promise<boolean>} whether it was done
 */
export function enqueue(what, change) {
  const session = state.session.id;
  const result = queue.then(async () => {
    if (state.session?.id !== session) {
      complain(`${what}: its session was closed before`);
      return false;
    }
    running++;
    try {
      await change(sessionPath());
      forgive();
      return true;
    } catch (error) {
      complain(`${what}: ${error.message}`);
      if (state.session?.id === session) await refetch().catch(() => {}); // without a connection: after it is back
      return false;
    } finally {
      running--;
    }
  });
  queue = result;
  return result;
}

/** A request whose reply is only taken over while its session is still open. */
async function send(method, path, body) {
  const { id } = state.session;
  const reply = await request(method, path, body);
  if (state.session?.id !== id) throw new ApiError("its session was closed meanwhile; open it to see whether it arrived", 0);
  return reply;
}

/** Fetches the session, its timeline and the shown masks again. @throws {ApiError} */
async function refetch() {
  applySession(await send("GET", sessionPath()), { force: true });
  await masksChanged();
}

/** Fetches the timeline and the shown masks again. @throws {ApiError} */
export async function masksChanged() {
  const session = state.session.id;
  invalidateMasks();
  refresh();
  const { objects } = await request("GET", `${sessionPath()}/timeline`);
  if (state.session?.id !== session) return;
  state.timeline = new Map(Object.entries(objects).map(([id, { area, confidence, outdated }]) => (
    [Number(id), { area, confidence, outdated: new Set(outdated) }])));
  emit("timeline");
}

function applyMasks({ session, ...masks }) {
  applySession(session);
  putMasks(masks);
  redrawMasks();
}

/** What a prompt has done, for those who do not see it. */
function promptResult(id, mask, replacesMask) {
  const { name, hidden } = objectById(id);
  const share = mask?.area ? `: ${(100 * mask.area).toFixed(1)} % of the frame.` : " was not found in this frame.";
  const parts = [name + share];
  if (hidden) parts.push("It is hidden.");
  if (replacesMask) parts.push("The prompt has replaced the brushed mask; undo brings it back.");
  return parts.join(" ");
}

async function newObject(path) {
  const object = await send("POST", `${path}/objects`, {});
  if (!objectById(object.id)) {
    // The event may be on its way; its session replaces this one.
    applySession({ ...state.session, objects: [...state.session.objects, object] });
  }
  activate(object.id);
  return object.id;
}

/**
 * Changes the active object's prompt in the shown frame; without an object makes one.
 * @param {number} frame
 * @param {string} what for an error
 * @param {(prompt: {points: number[][], box: ?number[]}) => Object} change returns the body of the request
 * @param {Object} [ghost] points and box to show until the answer is here
 * @returns {Promise<boolean>}
 */
export async function changePrompt(frame, what, change, ghost) {
  const object = state.active;
  if (ghost) overlay.ghosts.push(ghost);
  redraw();
  const done = await enqueue(what, async (path) => {
    const id = object ?? state.active ?? (await newObject(path));
    const prompt = promptAt(id, frame);
    const body = { box: null, mask: null, ...change({ points: prompt?.points ?? [], box: prompt?.box ?? null }) };
    const reply = await send("PUT", `${path}/objects/${id}/prompts/${frame}`, body);
    applyMasks(reply);
    say(promptResult(id, reply.objects[id], prompt?.has_mask && !body.mask));
  });
  overlay.ghosts = overlay.ghosts.filter((other) => other !== ghost);
  redraw();
  return done;
}

/** @param {number} x @param {number} y @param {0|1} label @returns {Promise<boolean>} */
export function click(x, y, label) {
  const { frame } = state;
  const point = [x, y, label];
  return changePrompt(frame, "The click was not applied", (prompt) => ({ box: prompt.box, points: [...prompt.points, point] }),
    { frame, points: [point], box: null });
}

/** @param {number[]} box x0, y0, x1, y1 @returns {Promise<boolean>} */
export function box(box) {
  const { frame } = state;
  return changePrompt(frame, "The box was not applied", ({ points }) => ({ points, box }), { frame, points: [], box });
}

/** @param {number} id @param {number} frame @returns {Promise<boolean>} */
export function clearPrompt(id, frame) {
  if (!promptAt(id, frame)) {
    say("There is no prompt of this object in this frame.");
    return Promise.resolve(false);
  }
  return enqueue("The prompt was not cleared", async (path) => {
    applyMasks(await send("DELETE", `${path}/objects/${id}/prompts/${frame}`));
  });
}

/** @returns {Promise<boolean>} */
export const addObject = () => enqueue("No object was added", newObject);

/** @param {number} id @param {{name?: string, colour?: string, hidden?: boolean}} changes @returns {Promise<boolean>} */
export function changeObject(id, changes) {
  return enqueue("The object was not changed", async (path) => {
    const changed = await send("PATCH", `${path}/objects/${id}`, changes);
    const objects = state.session.objects.map((object) => (object.id === id ? { ...object, ...changed } : object));
    applySession({ ...state.session, objects });
  });
}

/** @param {number} id @returns {Promise<boolean>} */
export function removeObject(id) {
  const { name } = objectById(id);
  return enqueue("The object was not removed", async (path) => {
    applySession(await send("DELETE", `${path}/objects/${id}`));
    say(`${name} is removed. Undo brings it back.`);
  });
}

/** @param {"undo"|"redo"} direction @returns {Promise<boolean>} */
export function undo(direction) {
  return enqueue(direction === "undo" ? "Nothing was undone" : "Nothing was redone", async (path) => {
    const what = state.session[direction];
    if (!what) return say(direction === "undo" ? "There is nothing to undo." : "There is nothing to redo.");
    const { frame, session } = await send("POST", `${path}/${direction}`, {});
    applySession(session);
    invalidateMasks();
    goTo(frame ?? state.frame);
    say(`${direction === "undo" ? "Undone" : "Redone"}: ${what}.`);
    await masksChanged();
  });
}

/** @param {"forward"|"backward"|"both"} direction @param {?number} frames null: to the end @returns {Promise<boolean>} */
export function track(direction, frames) {
  const { frame } = state;
  return enqueue("Tracking did not start", async (path) => {
    const job = await send("POST", `${path}/track`, { frame, direction, frames });
    state.playing = false;
    state.following = true;
    setJob(state.session.job ?? job);
    say("Tracking.");
  });
}

/** Stops tracking or exporting at once, ahead of changes that wait. */
export async function stop() {
  if (!state.session?.job) return;
  try {
    applySession(await send("POST", `${sessionPath()}/stop`, {}));
    state.following = false;
    say("Stopped.");
  } catch (error) {
    complain(`It did not stop: ${error.message}`);
  }
}

/** @param {?Object} job */
export function setJob(job) {
  if (!state.session) return;
  state.session.job = job;
  emit("job");
}
