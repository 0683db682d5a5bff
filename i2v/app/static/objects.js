// The panel of objects: number, colour, name, visibility, what the tracker says about the shown frame, and the prompts.
import { changeObject, clearPrompt, removeObject } from "./edits.js";
import { byId, element, icon, plural, setIcon } from "./dom.js";
import { activate, goTo, on, state } from "./state.js";

const list = byId("object-list");
const cards = new Map(); // object id -> {root, update}

/** @param {{points: number[][], box: ?number[], has_mask: boolean}} prompt @returns {string} */
function promptText({ points, box, has_mask: hasMask }) {
  const parts = [];
  if (points.length) parts.push(plural(points.length, "point"));
  if (box) parts.push("box");
  if (hasMask) parts.push("mask");
  return parts.join(", ");
}

function makeCard(id) {
  const select = element("button", { type: "button", class: "object-number", onclick: () => activate(id) });
  const colour = element("input", { type: "color", onchange: () => changeObject(id, { colour: colour.value }) });
  const name = element("input", { type: "text", class: "object-name", maxlength: 100, autocomplete: "off" });
  name.spellcheck = false;
  const hide = element("button", { type: "button", class: "quiet" }, icon("visible"));
  hide.addEventListener("click", () => changeObject(id, { hidden: !object.hidden }));
  const remove = element("button", { type: "button", class: "quiet", onclick: () => removeObject(id) }, icon("remove"));
  const about = element("p", { class: "object-about" });
  const prompts = element("ul", { class: "prompt-list" });
  const head = element("div", { class: "object-head" }, select, colour, name, hide, remove);
  const root = element("li", { class: "object", "data-testid": `object-${id}` }, head, about, prompts);
  let object = null;
  let listed = "";
  select.dataset.testid = `select-object-${id}`;
  name.dataset.testid = `name-object-${id}`;
  name.addEventListener("focus", () => activate(id));
  name.addEventListener("change", () => {
    const text = name.value.trim();
    if (text && text !== object.name) changeObject(id, { name: text });
    else name.value = object.name;
  });
  name.addEventListener("keydown", (event) => {
    if (event.key === "Escape") name.value = object.name;
    if (event.key === "Escape" || event.key === "Enter") {
      name.blur();
      select.focus();
    }
  });
  root.addEventListener("click", (event) => event.target.closest("button, input") || activate(id));

  function update(next, index) {
    object = next;
    const active = id === state.active;
    root.classList.toggle("active", active);
    root.classList.toggle("hidden-object", object.hidden);
    select.textContent = index + 1;
    select.setAttribute("aria-pressed", active);
    select.setAttribute("aria-label", `${object.name}, ${active ? "active" : "make active"}`);
    colour.value = object.colour;
    colour.setAttribute("aria-label", `Colour of ${object.name}`);
    if (document.activeElement !== name) name.value = object.name;
    name.setAttribute("aria-label", `Name of object ${index + 1}`);
    setIcon(hide, object.hidden ? "hidden" : "visible");
    hide.setAttribute("aria-pressed", object.hidden);
    hide.setAttribute("aria-label", `Hide ${object.name}`);
    hide.title = object.hidden ? "Hidden; left out of exports" : "Hide";
    remove.setAttribute("aria-label", `Remove ${object.name}`);
    remove.title = "Remove";
    about.textContent = aboutFrame();
    const wanted = JSON.stringify([object.name, object.prompts]);
    if (wanted !== listed) {
      listed = wanted;
      prompts.replaceChildren(...object.prompts.map(promptItem));
    }
    object.prompts.forEach(({ frame }, i) => {
      prompts.children[i].firstChild.setAttribute("aria-current", frame === state.frame);
    });
  }

  function aboutFrame() {
    const line = state.timeline.get(id);
    const area = line?.area[state.frame] ?? null;
    const confidence = line?.confidence[state.frame] ?? null;
    if (area === null) return "No mask in this frame";
    const parts = [`${(100 * area).toFixed(1)} % of the frame`];
    if (confidence !== null) parts.push(`confidence ${confidence.toFixed(2)}`);
    if (line.outdated.has(state.frame)) parts.push("out of date: track again");
    return parts.join(" · ");
  }

  function promptItem(prompt) {
    const jump = element("button", {
      type: "button", class: "prompt", text: `Frame ${prompt.frame}: ${promptText(prompt)}`,
      onclick: () => {
        activate(id);
        goTo(prompt.frame);
      },
    });
    const clear = element("button", {
      type: "button", class: "quiet", "aria-label": `Clear the prompt of ${object.name} in frame ${prompt.frame}`,
      title: "Clear this prompt", onclick: () => clearPrompt(id, prompt.frame),
    }, icon("close"));
    return element("li", {}, jump, clear);
  }

  return { root, update };
}

function update() {
  const objects = state.session?.objects ?? [];
  for (const [id, { root }] of cards) {
    if (objects.some((object) => object.id === id)) continue;
    root.remove();
    cards.delete(id);
  }
  objects.forEach((object, index) => {
    if (!cards.has(object.id)) cards.set(object.id, makeCard(object.id));
    const { root, update: updateCard } = cards.get(object.id);
    if (list.children[index] !== root) list.insertBefore(root, list.children[index] ?? null);
    updateCard(object, index);
  });
  byId("no-objects").hidden = objects.length > 0;
}

/** Puts the cursor into the name of the active object. */
export function editName() {
  cards.get(state.active)?.root.querySelector(".object-name").select();
}

/** Connects the panel with the state. */
export function initObjects() {
  let scheduled = false;
  on("session active frame timeline", () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      update();
    });
  });
  on("active", () => cards.get(state.active)?.root.scrollIntoView({ block: "nearest" }));
}
