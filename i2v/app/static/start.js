// The start screen: videos on the server's disk, saved sessions, uploads.
import { request, sendFile } from "./api.js";
import { byId, complain, element, forgive, icon, plural, say, sizeText } from "./dom.js";
import { state } from "./state.js";

const IMAGE = /\.(jpe?g|png|bmp|webp|tiff?)$/i;
let onOpen = null;
let folder = "";
let cancelUpload = null;

async function attempt(what, action) {
  try {
    await action();
  } catch (error) {
    complain(`${what}: ${error.message}`);
  }
}

/** Opens something; nothing else can be opened meanwhile, which takes seconds for long videos, of which frames are shown. */
async function attemptOpen(name, path, action) {
  const screen = byId("start");
  const preview = byId("preview");
  screen.inert = true;
  forgive();
  if (path) preview.src = `/api/preview?path=${encodeURIComponent(path)}`;
  say(`Opening ${name}…`);
  await attempt(`${name} was not opened`, action);
  screen.inert = false;
  preview.hidden = true;
  preview.removeAttribute("src");
  say("");
}

/**
 * Opens a video, or asks which of its saved sessions to continue.
 * @param {string} path below the root
 * @returns {Promise<void>}
 */
export function openPath(path) {
  return attemptOpen(path, path, async () => {
    const reply = await request("POST", "/sessions", { path });
    if (reply.existing) askWhich(path, reply.existing);
    else onOpen(reply);
  });
}

const continueSession = ({ id, name, path }) => (
  attemptOpen(name, path, async () => onOpen(await request("POST", `/sessions/${encodeURIComponent(id)}/open`, {}))));

function sessionText({ num_objects: objects, num_masks: masks, changed, is_open_elsewhere: elsewhere }) {
  const when = new Date(changed * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  if (objects === null) return elsewhere ? `open in another server, ${when}` : `being opened, ${when}`;
  return `${plural(objects, "object")}, ${plural(masks, "mask")}, ${when}`;
}

function askWhich(path, sessions) {
  const dialog = byId("existing");
  byId("existing-title").textContent = `${path} has saved work`;
  byId("existing-list").replaceChildren(...sessions.map((session) => element("li", {}, element("button", {
    type: "button", class: "row", onclick: () => {
      dialog.close();
      continueSession(session);
    },
  }, element("strong", { text: "Continue" }), element("span", { class: "muted", text: sessionText(session) })))));
  byId("existing-new").onclick = () => {
    dialog.close();
    attemptOpen(path, path, async () => onOpen(await request("POST", "/sessions", { path, new: true })));
  };
  dialog.showModal();
}

const row = (symbol, name, about, onclick) => element("button", { type: "button", class: "row", onclick },
  icon(symbol), element("span", { class: "row-text" }, element("span", { text: name }),
    element("span", { class: "muted", text: about })));

async function showFiles(path) {
  await attempt("The files are not shown", async () => {
    const files = await request("GET", `/files?path=${encodeURIComponent(path)}`);
    folder = files.path;
    byId("files-path").textContent = files.path ? `${state.info.root}/${files.path}` : state.info.root;
    const items = [];
    if (files.parent !== null) items.push([row("folder", "..", "one folder up", () => showFiles(files.parent))]);
    for (const { name, path: to, num_images: images } of files.folders) {
      const open = { type: "button", text: `Open ${plural(images, "image")}`, onclick: () => openPath(to) };
      items.push([row("folder", name, "", () => showFiles(to)), ...(images ? [element("button", open)] : [])]);
    }
    for (const { name, path: to, bytes } of files.videos) items.push([row("video", name, sizeText(bytes), () => openPath(to))]);
    byId("file-list").replaceChildren(...items.map((children) => element("li", {}, ...children)));
    byId("no-files").hidden = files.folders.length + files.videos.length > 0;
  });
}

async function showSessions() {
  await attempt("The saved sessions are not shown", async () => {
    const { sessions } = await request("GET", "/sessions");
    byId("session-list").replaceChildren(...sessions.map((session) => {
      const open = row("play", session.name, sessionText(session), () => continueSession(session));
      const remove = element("button", { type: "button", class: "quiet", "aria-label": `Delete the session of ${session.name}`,
        title: "Delete", onclick: () => removeSession(session) }, icon("remove"));
      return element("li", {}, open, remove);
    }));
    byId("no-sessions").hidden = sessions.length > 0;
  });
}

async function removeSession({ id, name }) {
  if (!confirm(`Delete the session of ${name} with its masks, uploads and exports? This cannot be undone.`)) return;
  await attempt("The session was not deleted", () => request("DELETE", `/sessions/${encodeURIComponent(id)}`));
  await showSessions();
}

/** What is wrong with files to upload, or null. */
function uploadProblem(files) {
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  const images = files.filter(({ name }) => IMAGE.test(name)).length;
  if (files.length > 1 && images < files.length) {
    return `Upload one video or images only: ${files.find(({ name }) => !IMAGE.test(name)).name} is not an image.`;
  }
  if (bytes > state.info.max_upload_bytes) {
    return `${sizeText(bytes)} are more than the limit of ${sizeText(state.info.max_upload_bytes)}.`;
  }
  return files.find(({ size }) => !size) ? `${files.find(({ size }) => !size).name} is empty.` : null;
}

async function upload(list) {
  const files = [...list];
  if (!files.length || cancelUpload) return;
  const problem = uploadProblem(files);
  if (problem) return void complain(problem);
  const total = files.reduce((sum, { size }) => sum + size, 0);
  const abort = new AbortController();
  cancelUpload = () => abort.abort();
  byId("uploading").hidden = false;
  byId("upload-cancel").disabled = false;
  const progress = (sent) => {
    byId("upload-progress").value = sent / total;
    byId("upload-text").textContent = `${sizeText(sent)} of ${sizeText(total)}`;
  };
  progress(0);
  let id = null;
  try {
    forgive();
    id = (await request("POST", "/uploads", { files: files.map(({ name, size }) => ({ name, bytes: size })) })).upload;
    let before = 0;
    for (const [index, file] of files.entries()) {
      if (abort.signal.aborted) throw new Error("The upload was cancelled.");
      await sendFile(`/uploads/${id}/${index}`, file, (sent) => progress(Math.min(total, before + sent)), abort.signal);
      before += file.size;
    }
    byId("upload-text").textContent = "Opening…";
    byId("upload-cancel").disabled = true;
    onOpen(await request("POST", `/uploads/${id}/open`, {}));
  } catch (error) {
    if (abort.signal.aborted) say("The upload was cancelled.");
    else complain(`The upload failed: ${error.message}`);
    if (id) request("DELETE", `/uploads/${id}`).catch(() => {}); // the server removes it anyway in the end
  } finally {
    cancelUpload = null;
    byId("uploading").hidden = true;
    byId("upload-files").value = "";
  }
}

/** Shows what can be opened. */
export function showStart() {
  byId("upload-limit").textContent = `One video, or many images. Up to ${sizeText(state.info.max_upload_bytes)}.`;
  showFiles(folder);
  showSessions();
}

/** Connects the start screen. @param {(session: Object) => void} open takes over an opened session */
export function initStart(open) {
  onOpen = open;
  const drop = byId("drop");
  byId("preview").addEventListener("load", (event) => { event.target.hidden = false; }); // not for folders, which have none
  byId("upload-files").addEventListener("change", (event) => upload(event.target.files));
  byId("upload-cancel").addEventListener("click", () => cancelUpload?.());
  // Anywhere on the page: a file that misses the field would replace the page otherwise.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (state.session) complain("Go back to the start screen to upload files.");
    else upload(event.dataTransfer.files);
  });
}
