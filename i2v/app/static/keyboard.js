// Keys and buttons to commands, and the help that lists them.
import { commands } from "./commands.js";
import { byId, element, icon } from "./dom.js";
import { on, state } from "./state.js";
import { space } from "./tools.js";

const KEY_NAMES = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", "-": "−" };

const byKey = new Map(); // "Ctrl+Shift+Z" -> commands, in the order in which they are asked whether they apply
for (const command of Object.values(commands)) {
  for (const key of command.keys) byKey.set(key, [...(byKey.get(key) ?? []), command]);
}

const available = (command) => state.session && (command.enabled?.() ?? true);

/** The name of a key press as in the table. Shift is part of the name of letters and named keys only: "?" needs it or not. */
function nameOf(event) {
  const isLetter = /^\p{Letter}$/u.test(event.key);
  const shift = event.shiftKey && (isLetter || event.key.length > 1) ? "Shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.altKey ? "Alt+" : ""}${shift}${
    isLetter ? event.key.toUpperCase() : event.key}`;
}

/** Whether the focused element needs the key itself. */
function isTaken(event) {
  const { target, key } = event;
  if (document.querySelector("dialog[open]")) return true;
  if (target.matches("select, textarea, input:not([type=range], [type=checkbox], [type=color])")) return true;
  if (target.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(key)) return true;
  return target.matches("button, a, summary, input") && (key === " " || key === "Enter");
}

function onKeyDown(event) {
  if (isTaken(event) || event.isComposing) return;
  if (event.key === "?" && !state.session) commands.help.run(event);
  if (!state.session) return;
  const command = byKey.get(nameOf(event))?.find(({ when }) => !when || when());
  if (!command) return;
  event.preventDefault();
  if (event.key === " ") {
    // Plays when it is released, unless something was dragged meanwhile.
    if (!event.repeat) Object.assign(space, { held: true, used: false });
  } else if ((!event.repeat || command.repeat) && available(command)) command.run(event);
}

function onKeyUp(event) {
  if (event.key !== " " || !space.held) return;
  if (!space.used) commands.play.run(event);
  space.held = false;
}

const keyText = (key) => key.split("+").filter(Boolean).map((part) => KEY_NAMES[part] ?? part).join(" ") || "+";

function fillHelp() {
  const groups = new Map();
  for (const { group, label, keys } of Object.values(commands)) {
    if (!keys.length) continue;
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push({ label, keys });
  }
  byId("help-keys").replaceChildren(...[...groups].map(([group, rows]) => {
    const merged = rows.reduce((all, row) => { // the four directions of the cursor share a line
      if (all.at(-1)?.label.startsWith("Move the cursor") && row.label.startsWith("Move the cursor")) {
        all.splice(-1, 1, { label: row.label, keys: [...all.at(-1).keys, ...row.keys] });
      } else all.push(row);
      return all;
    }, []);
    const items = merged.flatMap(({ label, keys }) => {
      const shown = label.startsWith("Move the cursor") ? keys.filter((key) => !key.startsWith("Shift")) : keys;
      return [element("dt", {}, ...shown.map((key) => element("kbd", { text: keyText(key) }))), element("dd", { text: label })];
    });
    return element("section", {}, element("h3", { text: group }), element("dl", {}, ...items));
  }));
}

function updateButtons() {
  for (const button of document.querySelectorAll("[data-command]")) {
    const command = commands[button.dataset.command];
    button.disabled = Boolean(state.session) && !available(command);
    if (command.pressed) button.setAttribute("aria-pressed", Boolean(state.session && command.pressed()));
  }
}

/** Connects keys and buttons. */
export function initKeyboard() {
  document.addEventListener("keydown", onKeyDown);
  document.addEventListener("keyup", onKeyUp);
  window.addEventListener("blur", () => { space.held = false; });
  for (const button of document.querySelectorAll("[data-icon]")) button.prepend(icon(button.dataset.icon));
  for (const button of document.querySelectorAll("[data-command]")) {
    const command = commands[button.dataset.command];
    const keys = command.keys.map(keyText).join(" or ");
    button.title = keys ? `${command.label} (${keys})` : command.label;
    button.addEventListener("click", (event) => (state.session || command === commands.help) && command.run(event));
  }
  // After a click with the mouse the space bar should play, not press the button again.
  document.addEventListener("click", (event) => {
    const inEditor = state.session && !document.querySelector("dialog[open]");
    if (event.detail && inEditor && event.target.closest("button")) byId("canvas").focus({ preventScroll: true });
  });
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  on("session job frame active tool masks", updateButtons);
  fillHelp();
}
