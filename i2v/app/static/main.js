// Starts the page; opens and closes sessions, and listens to their events.
import { listen, request } from "./api.js";
import { byId, complain, forgive, say, setIcon } from "./dom.js";
import { isEditing, masksChanged, setJob } from "./edits.js";
import { initExport } from "./export.js";
import { initKeyboard } from "./keyboard.js";
import { initObjects } from "./objects.js";
import { invalidateMasks } from "./pictures.js";
import { setSpeed } from "./player.js";
import { initStart, openPath, showStart } from "./start.js";
import { activate, applySession, emit, goTo, noteFrame, on, sessionPath, setTool, state } from "./state.js";
import { initTimeline } from "./timeline.js";
import { initTools } from "./tools.js";
import { clearView, fit, initViewer, overlay, refresh, view } from "./viewer.js";

let stopListening = null;
let address = ""; // the hash that belongs to what is shown

const hashOf = (id, frame) => `#session=${encodeURIComponent(id)}&frame=${frame}`;

/** The session and frame that the address names. */
function fromHash() {
  const values = new URLSearchParams(location.hash.slice(1));
  return { id: values.get("session"), frame: Number(values.get("frame")) || 0 };
}

function leave() {
  stopListening?.();
  stopListening = null;
  say("");
  clearView();
  Object.assign(state, { session: null, frame: 0, active: null, playing: false, following: false, timeline: new Map() });
  Object.assign(overlay, { box: null, draft: null, ghosts: [], pointing: null });
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  byId("connection").hidden = true;
}

function enter(session, frame = 0) {
  leave();
  document.body.dataset.screen = "editor";
  document.title = `${session.name} – SAM-I2V`;
  byId("session-name").textContent = session.name;
  applySession(session, { force: true });
  setAddress(hashOf(session.id, frame), "push");
  byId("brush-size").max = Math.max(100, Math.round(Math.max(session.width, session.height) / 4));
  setTool({ brushSize: Math.max(4, Math.round(session.height / 15)) });
  activate(session.objects.at(-1)?.id ?? null);
  newConnection = true;
  stopListening = listen(sessionPath(), { onMessage, onLost, beforeRetry });
  goTo(frame);
  fit();
  byId("canvas").focus({ preventScroll: true });
}

function goHome() {
  leave();
  document.body.dataset.screen = "start";
  document.title = "SAM-I2V";
  setAddress("", "push");
  showStart();
}

function setAddress(hash, how) {
  if (hash === address && location.hash === hash) return;
  address = hash;
  if (location.hash === hash) return;
  history[how === "push" ? "pushState" : "replaceState"](null, "", hash || location.pathname + location.search);
}

async function followAddress() {
  const { id, frame } = fromHash();
  if (!id) return goHome();
  if (state.session?.id === id) return goTo(frame);
  try {
    say("Opening…");
    enter(await request("POST", `/sessions/${encodeURIComponent(id)}/open`, {}), frame);
    say("");
  } catch (error) {
    goHome();
    complain(`The session of this address was not opened: ${error.message}`);
  }
}

// Events of the server.

let updateTimer = 0;
let newConnection = true; // its first message is the session; the rest may have changed, too

/** Fetches what has changed; once for a burst of messages. */
function updateMasks() {
  clearTimeout(updateTimer);
  updateTimer = setTimeout(() => state.session && masksChanged().catch((error) => complain(error.message)), 50);
}

function onMessage(message) {
  if (message.type === "session") {
    const changed = message.session.revision !== state.session.revision;
    applySession(message.session, { force: newConnection });
    if (newConnection && !byId("connection").hidden) {
      byId("connection").hidden = true;
      forgive(); // what failed meanwhile was said
      say("Connected again.");
    }
    if (newConnection || (changed && !isEditing())) updateMasks(); // changed by another tab
    newConnection = false;
  } else if (message.type === "frame") {
    noteFrame(message.frame, message.objects, { complete: false });
    invalidateMasks(message.frame);
    setJob(message.job);
    if (state.following) goTo(message.frame, { byUser: false });
    else if (message.frame === state.frame) refresh();
  } else if (message.type === "job") {
    const before = state.session.job;
    setJob(message.job);
    if (before && !message.job) {
      state.following = false;
      emit("frame");
      updateMasks(); // events and a timeline on its way may have overtaken each other
      say(before.kind === "track" ? "Tracking finished." : "Export finished.");
    }
  } else if (message.type === "timeline") {
    updateMasks();
  } else if (message.type === "error") {
    complain(message.message);
  }
}

function onLost() {
  newConnection = true;
  byId("connection").hidden = false;
}

async function beforeRetry() {
  const { id } = state.session;
  try {
    await request("POST", `/sessions/${encodeURIComponent(id)}/open`, {}); // the server may have been restarted
    return true;
  } catch (error) {
    if (error.status === 403) { // the server was restarted, and has another token
      byId("connection").hidden = true;
      complain(error.message);
      return false;
    }
    if (error.status !== 404) {
      if (error.status) complain(error.message); // the server is there, but refuses
      throw error;
    }
    goHome();
    complain("The session has been deleted.");
    return false;
  }
}

// Small displays.

const seconds = (value) => (value < 90 ? `${Math.ceil(value)} s` : `${Math.ceil(value / 60)} min`);

function showJob() {
  const job = state.session?.job ?? null;
  byId("job").hidden = !job;
  if (!job) return;
  byId("follow").hidden = job.kind !== "track";
  const parts = [`${job.kind === "track" ? "Tracking" : "Exporting"} ${job.done} of ${job.total}`];
  if (job.frames_per_second) parts.push(`${job.frames_per_second.toFixed(1)} frames/s`);
  if (job.seconds_left !== null) parts.push(`${seconds(job.seconds_left)} left`);
  byId("job-text").textContent = parts.join(" · ");
  Object.assign(byId("job-progress"), { max: Math.max(1, job.total), value: job.done });
}

function showFrame() {
  if (!state.session) return;
  const number = byId("frame-number");
  if (document.activeElement !== number) number.value = state.frame;
  number.max = state.session.num_frames - 1;
  byId("frame-count").textContent = `of 0 to ${state.session.num_frames - 1}`;
  setIcon(byId("play"), state.playing ? "pause" : "play");
  byId("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
}

function showProblem() {
  const problem = state.session?.problem ?? "";
  if (byId("problem").textContent !== problem) byId("problem").textContent = problem;
  byId("problem").hidden = !problem;
}

function initDisplays() {
  let addressTimer = 0;
  on("job session", showJob);
  on("frame session", showFrame);
  on("session", showProblem);
  on("frame", () => {
    clearTimeout(addressTimer);
    addressTimer = setTimeout(() => state.session && setAddress(hashOf(state.session.id, state.frame), "replace"), 500);
  });
  on("view", () => { byId("zoom-value").textContent = `${Math.round(100 * view.scale)} %`; });
  byId("frame-number").addEventListener("change", ({ target }) => {
    if (target.value !== "") goTo(target.valueAsNumber);
    target.value = state.frame;
  });
  for (const id of ["frame-number", "track-frames"]) {
    byId(id).addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.target.blur();
      byId("canvas").focus({ preventScroll: true });
    });
  }
  byId("speed").addEventListener("change", ({ target }) => setSpeed(Number(target.value)));
  byId("error-close").addEventListener("click", () => { byId("error").hidden = true; });
}

async function start() {
  initViewer();
  initTools();
  initTimeline();
  initObjects();
  initExport();
  initKeyboard();
  initStart(enter);
  initDisplays();
  setTool({});
  try {
    state.info = await request("GET", "/info");
  } catch (error) {
    complain(error.message);
    return;
  }
  byId("model").textContent = `${state.info.model} on ${state.info.device}`;
  window.addEventListener("popstate", followAddress);
  const named = fromHash().id;
  await followAddress();
  if (!named && state.info.open) openPath(state.info.open);
}

start();
