// Plays the video with its masks at its own speed. What is late is left out.
import { say } from "./dom.js";
import { frameLimit, framesLoading, loadFrame, loadMasks, masksAreFresh, peekFrame } from "./pictures.js";
import { emit, goTo, hasMasks, state } from "./state.js";

const MAX_LOADING = 3; // of frames, and of masks
const PATIENCE_MS = 400; // with nothing to show for so long, playing waits instead of running ahead

let origin = null; // {time, frame}: when which frame was due
let lastShown = 0;
let masksLoading = 0;
let factor = 1;

/** @param {number} value times the video's own speed */
export function setSpeed(value) {
  factor = value;
  origin = null;
}

/** Plays, or pauses. */
export function togglePlay() {
  state.playing = !state.playing;
  if (state.playing) {
    state.following = false;
    if (state.frame >= state.session.num_frames - 1) goTo(0, { byUser: false });
    origin = null;
    requestAnimationFrame(tick);
  }
  emit("frame");
}

const isReady = (frame) => peekFrame(frame) && (masksAreFresh(frame) || !hasMasks(frame));

function tick(now) {
  if (!state.playing || !state.session) return;
  const { num_frames: numFrames, frames_per_second: rate } = state.session;
  if (!origin) {
    origin = { time: now, frame: state.frame };
    lastShown = now;
  }
  const due = Math.min(numFrames - 1, origin.frame + Math.floor(((now - origin.time) / 1000) * rate * factor));
  let frame = due;
  while (frame > state.frame && !isReady(frame)) frame--;
  if (frame > state.frame) {
    goTo(frame, { byUser: false });
    lastShown = now;
  } else if (due > state.frame && now - lastShown > PATIENCE_MS) {
    origin = { time: now, frame: state.frame };
  }
  if (state.frame >= numFrames - 1) {
    state.playing = false;
    say("The end.");
    emit("frame");
    return;
  }
  prefetch(due);
  requestAnimationFrame(tick);
}

function prefetch(due) {
  const end = Math.min(state.session.num_frames, due + 1 + Math.floor(frameLimit() / 2));
  for (let frame = due + (due === state.frame ? 1 : 0); frame < end; frame++) {
    // Errors are shown when the frame is due and is loaded again.
    if (!peekFrame(frame) && framesLoading() < MAX_LOADING) loadFrame(frame).catch(() => {});
    if (masksLoading < MAX_LOADING && !masksAreFresh(frame) && hasMasks(frame)) {
      masksLoading++;
      loadMasks(frame).catch(() => {}).finally(() => masksLoading--);
    }
  }
}
