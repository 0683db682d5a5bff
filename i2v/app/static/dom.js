// Elements of the page, and what it tells the user. Data from the server only ever becomes text, never HTML.

/** @param {string} id @returns {HTMLElement} */
export const byId = (id) => document.getElementById(id);

/**
 * A new element.
 * @param {string} tag
 * @param {Object<string, *>} [properties] attributes; "text" is the content, functions named on... are listeners
 * @param {...Node} children
 * @returns {HTMLElement}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A symbol of index.html. @param {string} name @returns {SVGElement} */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Changes the symbol of a button. @param {HTMLElement} button @param {string} name */
export function setIcon(button, name) {
  const use = button.querySelector("use");
  if (use.getAttribute("href") !== `#icon-${name}`) use.setAttribute("href", `#icon-${name}`);
}

/** Tells the user, politely, what happened. @param {string} text */
export function say(text) {
  byId("status").textContent = text;
}

/** Tells the user at once what went wrong; it stays until it is dismissed or replaced. @param {string} text */
export function complain(text) {
  byId("error-text").textContent = text;
  byId("error").hidden = false;
}

/** Takes an error back. */
export function forgive() {
  byId("error").hidden = true;
  byId("error-text").textContent = "";
}

/** How much larger than usual text and controls are, for what is drawn on canvases. @returns {number} */
export const uiScale = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;

/** @param {number} bytes @returns {string} */
export function sizeText(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let unit = 0;
  for (; bytes >= 1000 && unit < 3; unit++) bytes /= 1000;
  return `${unit ? bytes.toPrecision(3) : bytes} ${units[unit]}`;
}

/** @param {number} number @param {string} noun @returns {string} "1 point", "2 points" */
export const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
