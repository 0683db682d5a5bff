// Everything the user can do in the editor, with its keys: the buttons, the keyboard and the help are made from this table.
import { addObject, changeObject, clearPrompt, removeObject, stop, track, undo } from "./edits.js";
import { byId, say } from "./dom.js";
import { openExport } from "./export.js";
import { editName } from "./objects.js";
import { togglePlay } from "./player.js";
import { activate, emit, goTo, leastCertainFrame, objectById, promptedFrames, setTool, state } from "./state.js";
import { cancelGesture, cornerPointing, movePointing, pressPointing, togglePointing } from "./tools.js";
import { fit, overlay, pan, zoom } from "./viewer.js";

const PAN_STEP = 60; // CSS pixels

const pointing = () => overlay.pointing !== null;
const lastFrame = () => state.session.num_frames - 1;
const hasActive = () => state.active !== null;

function toPrompted(direction) {
  const frames = promptedFrames();
  const frame = direction > 0 ? frames.find((index) => index > state.frame) : frames.findLast((index) => index < state.frame);
  if (frame === undefined) say(`There is no prompted frame ${direction > 0 ? "after" : "before"} this one.`);
  else goTo(frame);
}

function toLeastCertain() {
  const frame = leastCertainFrame();
  if (frame === null) say("Nothing has been tracked yet, or every tracked frame is prompted.");
  else {
    goTo(frame);
    say(`${hasActive() ? objectById(state.active).name : "The masks"} ${hasActive() ? "is" : "are"} least certain in frame ${frame}.`);
  }
}

/** Number of frames to track, or null for all. */
function trackLength() {
  const frames = byId("track-frames").valueAsNumber;
  return frames >= 1 ? Math.round(frames) : null;
}

function escape() {
  if (cancelGesture()) say("Cancelled.");
  else if (state.session.job) stop();
  else if (pointing()) togglePointing();
}

function resizeBrush(factor) {
  const { min, max } = byId("brush-size");
  const size = Math.round(state.brushSize * factor) + Math.sign(factor - 1);
  setTool({ brushSize: Math.max(min, Math.min(max, size)) });
}

/**
 * group and label are for the help; repeat: also while the key is held; when: the keys only count then.
 * @type {Object<string, {group: string, label: string, keys: string[], run: (event: Event) => void, repeat?: boolean,
 *   when?: () => boolean, enabled?: () => boolean, pressed?: () => boolean}>}
 */
export const commands = {
  pointLeft: { group: "Pointing", label: "Move the cursor", keys: ["ArrowLeft", "Shift+ArrowLeft"], repeat: true,
    when: pointing, run: (event) => movePointing(-1, 0, event.shiftKey) },
  pointRight: { group: "Pointing", label: "Move the cursor", keys: ["ArrowRight", "Shift+ArrowRight"], repeat: true,
    when: pointing, run: (event) => movePointing(1, 0, event.shiftKey) },
  pointUp: { group: "Pointing", label: "Move the cursor", keys: ["ArrowUp", "Shift+ArrowUp"], repeat: true, when: pointing,
    run: (event) => movePointing(0, -1, event.shiftKey) },
  pointDown: { group: "Pointing", label: "Move the cursor (with Shift: by one pixel)", keys: ["ArrowDown", "Shift+ArrowDown"],
    repeat: true, when: pointing, run: (event) => movePointing(0, 1, event.shiftKey) },
  pointPress: { group: "Pointing", label: "Include what is under the cursor; with a brush: start or end a stroke",
    keys: ["Enter"], when: pointing, run: () => pressPointing(false) },
  pointPressNegative: { group: "Pointing", label: "Exclude what is under the cursor; with a brush: erase",
    keys: ["Shift+Enter", "Alt+Enter"], when: pointing, run: () => pressPointing(true) },
  pointCorner: { group: "Pointing", label: "Start, and then end a box", keys: ["X"], when: pointing, run: cornerPointing },
  pointing: { group: "Pointing", label: "Point with the keyboard, on and off", keys: ["P"], run: togglePointing,
    pressed: pointing },

  toolPoint: { group: "Tools", label: "Points and boxes", keys: ["C"], run: () => setTool({ tool: "point" }),
    pressed: () => state.tool === "point" },
  toolBrush: { group: "Tools", label: "Brush", keys: ["B"], run: () => setTool({ tool: "brush" }),
    pressed: () => state.tool === "brush" },
  toolEraser: { group: "Tools", label: "Eraser", keys: ["E"], run: () => setTool({ tool: "eraser" }),
    pressed: () => state.tool === "eraser" },
  negative: { group: "Tools", label: "Clicks exclude, on and off", keys: ["Q"],
    run: () => setTool({ negative: !state.negative }), pressed: () => state.negative },
  brushSmaller: { group: "Tools", label: "Smaller brush", keys: ["["], repeat: true, run: () => resizeBrush(0.8) },
  brushLarger: { group: "Tools", label: "Larger brush", keys: ["]"], repeat: true, run: () => resizeBrush(1.25) },
  undo: { group: "Tools", label: "Undo", keys: ["Ctrl+Z"], repeat: true, run: () => undo("undo"),
    enabled: () => state.session.undo !== null },
  redo: { group: "Tools", label: "Redo", keys: ["Ctrl+Shift+Z", "Ctrl+Y"], repeat: true, run: () => undo("redo"),
    enabled: () => state.session.redo !== null },
  clearPrompt: { group: "Tools", label: "Clear the object's prompt in this frame", keys: ["Backspace"],
    run: () => clearPrompt(state.active, state.frame), enabled: hasActive },

  addObject: { group: "Objects", label: "New object", keys: ["N"], run: addObject },
  renameObject: { group: "Objects", label: "Rename the object", keys: ["F2"], run: editName, enabled: hasActive },
  hideObject: { group: "Objects", label: "Hide or show the object", keys: ["H"], enabled: hasActive,
    run: () => changeObject(state.active, { hidden: !objectById(state.active).hidden }) },
  removeObject: { group: "Objects", label: "Remove the object", keys: ["Delete"], run: () => removeObject(state.active),
    enabled: hasActive },
  selectObject: { group: "Objects", label: "Objects 1 to 9", keys: ["1", "2", "3", "4", "5", "6", "7", "8", "9"],
    run: (event) => {
      const object = state.session.objects[Number(event.key) - 1];
      if (object) activate(object.id);
    } },

  previousFrame: { group: "Frames", label: "Previous frame", keys: ["ArrowLeft", ","], repeat: true,
    run: () => goTo(state.frame - 1) },
  nextFrame: { group: "Frames", label: "Next frame", keys: ["ArrowRight", "."], repeat: true,
    run: () => goTo(state.frame + 1) },
  back10: { group: "Frames", label: "10 frames back", keys: ["Shift+ArrowLeft"], repeat: true,
    run: () => goTo(state.frame - 10) },
  ahead10: { group: "Frames", label: "10 frames ahead", keys: ["Shift+ArrowRight"], repeat: true,
    run: () => goTo(state.frame + 10) },
  firstFrame: { group: "Frames", label: "First frame", keys: ["Home"], run: () => goTo(0) },
  lastFrame: { group: "Frames", label: "Last frame", keys: ["End"], run: () => goTo(lastFrame()) },
  previousPrompt: { group: "Frames", label: "Previous prompted frame", keys: ["PageUp", "J"], run: () => toPrompted(-1) },
  nextPrompt: { group: "Frames", label: "Next prompted frame", keys: ["PageDown", "L"], run: () => toPrompted(1) },
  leastCertain: { group: "Frames", label: "Least certain frame of the object", keys: ["U"], run: toLeastCertain },
  frameNumber: { group: "Frames", label: "Type a frame number", keys: ["G"], run: () => byId("frame-number").select() },
  play: { group: "Frames", label: "Play or pause", keys: [" ", "K"], run: togglePlay },

  trackForward: { group: "Tracking", label: "Track forward", keys: ["T"], run: () => track("forward", trackLength()),
    enabled: () => !state.session.job },
  trackBackward: { group: "Tracking", label: "Track backward", keys: ["R"], run: () => track("backward", trackLength()),
    enabled: () => !state.session.job },
  trackBoth: { group: "Tracking", label: "Track in both directions", keys: ["Shift+T"], run: () => track("both", trackLength()),
    enabled: () => !state.session.job },
  escape: { group: "Tracking", label: "Stop at once; cancel a box or stroke; leave pointing", keys: ["Escape"], run: escape },
  stop: { group: "Tracking", label: "Stop", keys: [], run: stop },
  follow: { group: "Tracking", label: "Follow the newest mask", keys: ["F"], pressed: () => state.following,
    run: () => {
      state.following = !state.following;
      emit("frame");
    } },

  zoomIn: { group: "View", label: "Zoom in", keys: ["+", "="], repeat: true, run: () => zoom(1.25) },
  zoomOut: { group: "View", label: "Zoom out", keys: ["-"], repeat: true, run: () => zoom(0.8) },
  fit: { group: "View", label: "Show the whole frame", keys: ["0"], run: fit },
  panLeft: { group: "View", label: "Pan left", keys: ["A"], repeat: true, run: () => pan(PAN_STEP, 0) },
  panRight: { group: "View", label: "Pan right", keys: ["D"], repeat: true, run: () => pan(-PAN_STEP, 0) },
  panUp: { group: "View", label: "Pan up", keys: ["W"], repeat: true, run: () => pan(0, PAN_STEP) },
  panDown: { group: "View", label: "Pan down", keys: ["S"], repeat: true, run: () => pan(0, -PAN_STEP) },
  masks: { group: "View", label: "Masks on and off", keys: ["M"], pressed: () => state.masksVisible,
    run: () => {
      state.masksVisible = !state.masksVisible;
      emit("masks");
    } },

  export: { group: "Page", label: "Export", keys: ["Shift+E"], run: openExport },
  home: { group: "Page", label: "Open another video", keys: ["O"], run: () => { location.hash = ""; } },
  help: { group: "Page", label: "Keyboard and mouse", keys: ["?"], run: () => byId("help").showModal() },
};
