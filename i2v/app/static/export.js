// The dialog that writes results and lists those that are ready.
import { request } from "./api.js";
import { enqueue, setJob } from "./edits.js";
import { byId, element, plural, say, sizeText } from "./dom.js";
import { on, sessionPath, state } from "./state.js";

const dialog = byId("export");
const formats = byId("export-formats");

/** Opens the dialog. */
export function openExport() {
  if (!formats.querySelector("input")) {
    Object.entries(state.info.formats).forEach(([name, label], i) => {
      const box = element("input", { type: "checkbox", name: "format", value: name, checked: i === 0 });
      formats.append(element("label", {}, box, element("span", { text: label })));
    });
  }
  update();
  dialog.showModal();
}

async function start(event) {
  event.preventDefault();
  const chosen = [...formats.querySelectorAll(":checked")].map(({ value }) => value);
  byId("export-error").textContent = chosen.length ? "" : "Choose at least one format.";
  if (!chosen.length) return;
  const done = await enqueue("The export did not start", async (path) => {
    const job = await request("POST", `${path}/export`, { formats: chosen });
    setJob(state.session.job ?? job);
    say("Exporting.");
  });
  if (!done) byId("export-error").textContent = byId("error-text").textContent; // the alert is behind the dialog
}

function update() {
  if (!state.session) return;
  const { job, exports, objects } = state.session;
  const running = job?.kind === "export";
  byId("export-start").disabled = Boolean(job);
  byId("export-progress").hidden = !running;
  byId("export-stop").hidden = !running;
  if (running) Object.assign(byId("export-progress"), { max: Math.max(1, job.total), value: job.done });
  const hidden = objects.filter((object) => object.hidden).map(({ name }) => name);
  byId("export-hidden").textContent = hidden.length
    ? `Hidden objects are left out of all but the prompts: ${hidden.join(", ")}.`
    : "All objects are exported. Those that you hide are left out of all but the prompts.";
  byId("export-wait").textContent = job?.kind === "track" ? "Stop tracking, or wait until it has ended, to export." : "";
  byId("export-list").replaceChildren(...exports.map(({ id, name, bytes, formats: kinds }) => element("li", {},
    element("a", {
      href: `/api${sessionPath()}/exports/${encodeURIComponent(id)}`, download: name, text: `${name} (${sizeText(bytes)})`,
      "data-testid": "export-link",
    }), element("span", { class: "muted", text: ` ${kinds.map((kind) => state.info.formats[kind] ?? kind).join("; ")}` }))));
  byId("export-ready").textContent = exports.length ? `${plural(exports.length, "export")} ready` : "";
}

/** Connects the dialog with the state. */
export function initExport() {
  byId("export-form").addEventListener("submit", start);
  on("session job", () => dialog.open && update());
}
