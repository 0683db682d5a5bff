// Requests to the server, and its events.

/** An answer that is an error, or no answer at all (status 0). */
export class ApiError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const NO_ANSWER = "the server does not answer; is it still running?";

/**
 * @param {string} method
 * @param {string} path below /api
 * @param {Object} [body] sent as JSON
 * @returns {Promise<*>} the JSON of the answer; null if it has none
 * @throws {ApiError}
 */
export async function request(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const response = await answer(path, options);
  return response.status === 204 ? null : response.json();
}

/** @param {string} path below /api @param {RequestInit} [options] @returns {Promise<Response>} @throws {ApiError} */
export async function answer(path, options) {
  let response;
  try {
    response = await fetch(`/api${path}`, options);
  } catch {
    throw new ApiError(NO_ANSWER, 0);
  }
  if (!response.ok) throw new ApiError(errorText(await response.text(), response.status), response.status);
  return response;
}

function errorText(body, status) {
  try {
    return JSON.parse(body).error || `The server answered with status ${status}.`;
  } catch {
    return `The server answered with status ${status}.`;
  }
}

/**
 * Sends a file. fetch cannot report progress, so this is an XMLHttpRequest.
 * @param {string} path below /api
 * @param {File} file
 * @param {(sent: number) => void} onProgress bytes
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 * @throws {ApiError}
 */
export function sendFile(path, file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const transfer = new XMLHttpRequest();
    transfer.open("PUT", `/api${path}`);
    transfer.setRequestHeader("Content-Type", "application/octet-stream");
    transfer.upload.addEventListener("progress", (event) => onProgress(event.loaded));
    transfer.addEventListener("load", () => {
      if (transfer.status < 300) resolve();
      else reject(new ApiError(errorText(transfer.responseText, transfer.status), transfer.status));
    });
    transfer.addEventListener("error", () => reject(new ApiError(NO_ANSWER, 0)));
    transfer.addEventListener("abort", () => reject(new ApiError("The upload was cancelled.", 0)));
    signal.addEventListener("abort", () => transfer.abort());
    transfer.send(file);
  });
}

/**
 * Listens to a session's events, and connects again when the connection is lost.
 * @param {string} path of the session, below /api
 * @param {{onMessage: (message: Object) => void, onLost: () => void, beforeRetry: () => Promise<boolean>}} handlers
 *   beforeRetry returns whether there is still a session to listen to, and throws if the server does not answer
 * @returns {() => void} stops listening
 */
export function listen(path, { onMessage, onLost, beforeRetry }) {
  let socket = null;
  let stopped = false;
  let delay = 500;
  let timer = 0;
  function connect() {
    socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api${path}/events`);
    socket.addEventListener("message", (event) => {
      delay = 500;
      if (!stopped) onMessage(JSON.parse(event.data));
    });
    socket.addEventListener("close", () => retryLater());
  }
  function retryLater() {
    if (stopped) return;
    onLost();
    timer = setTimeout(async () => {
      try {
        if (await beforeRetry() && !stopped) connect();
      } catch {
        retryLater();
      }
    }, delay);
    delay = Math.min(2 * delay, 8000);
  }
  connect();
  return () => {
    stopped = true;
    clearTimeout(timer);
    socket.close();
  };
}
