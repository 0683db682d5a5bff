// Frames and masks from the server, in caches of bounded size.
import { answer, request } from "./api.js";
import { noteFrame, sessionPath, state } from "./state.js";

const MAX_FRAMES = 48;
const MAX_FRAME_BYTES = 500e6; // 4K frames take 33 MB each
const MAX_MASKS = 256;

const frames = new Map(); // index -> ImageBitmap, the least recently used first
const frameLoads = new Map(); // index -> promise
const masks = new Map(); // index -> {value: reply or null, fresh: boolean, load: promise or null}
let pinned = -1; // index of the frame on the screen, which is kept
let opened = 0; // changes with the session, so that late answers of the last one are dropped

/** Forgets everything. */
export function clearPictures() {
  opened++;
  for (const bitmap of frames.values()) bitmap.close();
  for (const cache of [frames, frameLoads, masks]) cache.clear();
}

/** Keeps the frame that is on the screen. @param {number} index */
export function pin(index) {
  pinned = index;
}

/** How many frames are kept. @returns {number} */
export function frameLimit() {
  const { width, height } = state.session;
  return Math.max(6, Math.min(MAX_FRAMES, Math.floor(MAX_FRAME_BYTES / (4 * width * height))));
}

/** @returns {number} frames on their way */
export const framesLoading = () => frameLoads.size;

/** @param {number} index @returns {ImageBitmap|undefined} */
export function peekFrame(index) {
  const bitmap = frames.get(index);
  if (bitmap) {
    frames.delete(index);
    frames.set(index, bitmap);
  }
  return bitmap;
}

/** @param {number} index @returns {Promise<ImageBitmap>} @throws {ApiError} */
export function loadFrame(index) {
  const ready = peekFrame(index);
  if (ready) return Promise.resolve(ready);
  if (!frameLoads.has(index)) frameLoads.set(index, fetchFrame(index));
  return frameLoads.get(index);
}

async function fetchFrame(index) {
  const now = opened;
  try {
    const response = await answer(`${sessionPath()}/frames/${index}`);
    const bitmap = await createImageBitmap(await response.blob());
    if (now !== opened) return bitmap;
    frames.set(index, bitmap);
    for (const [old, oldBitmap] of frames) {
      if (frames.size <= frameLimit()) break;
      if (old === pinned || old === state.frame || old === index) continue;
      oldBitmap.close();
      frames.delete(old);
    }
    return bitmap;
  } finally {
    if (now === opened) frameLoads.delete(index);
  }
}

/** What is known of a frame's masks, fresh or not. @param {number} index @returns {?Object} */
export const peekMasks = (index) => masks.get(index)?.value ?? null;

/** @param {number} index @returns {boolean} */
export const masksAreFresh = (index) => masks.get(index)?.fresh ?? false;

/** @param {number} index @returns {Promise<Object>} as GET masks @throws {ApiError} */
export function loadMasks(index) {
  const entry = masks.get(index) ?? { value: null, fresh: false, load: null };
  masks.delete(index);
  masks.set(index, entry);
  for (const old of masks.keys()) {
    if (masks.size <= MAX_MASKS) break;
    masks.delete(old);
  }
  if (entry.fresh) return Promise.resolve(entry.value);
  entry.load ??= fetchMasks(index, entry);
  return entry.load;
}

async function fetchMasks(index, entry) {
  const now = opened;
  try {
    do {
      entry.fresh = true; // until somebody invalidates it, which may happen while the answer is on its way
      const reply = await request("GET", `${sessionPath()}/masks/${index}`);
      if (now !== opened) return reply;
      entry.value = reply;
    } while (!entry.fresh);
    // Unless the reply to a prompt, which is newer, has taken the place of this one.
    if (masks.get(index) === entry) noteFrame(index, entry.value.objects, { complete: true });
    return entry.value;
  } catch (error) {
    entry.fresh = false;
    throw error;
  } finally {
    entry.load = null;
  }
}

/** Takes masks over that came with the reply to a prompt. @param {Object} reply as GET masks */
export function putMasks(reply) {
  masks.set(reply.frame, { value: reply, fresh: true, load: null });
  noteFrame(reply.frame, reply.objects, { complete: true });
}

/** Masks have changed on the server: fetch them again when they are next needed. @param {number} [index] default: all */
export function invalidateMasks(index) {
  for (const entry of index === undefined ? masks.values() : [masks.get(index)]) if (entry) entry.fresh = false;
}
