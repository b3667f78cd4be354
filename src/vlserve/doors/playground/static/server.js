// What the page asks of the server, and how it says no.

import { events } from "./sse.js";

/** The address of a path of this server, also behind a proxy that serves it under a prefix. */
export const address = (path) => new URL(path, document.baseURI).href;

/** A refusal or a failure in words that can be shown. `param` names the field at fault, or null. */
export class ServerError extends Error {
  constructor(message, { param = null, status = 0 } = {}) {
    super(message);
    this.param = param;
    this.status = status;
  }
}

/** The JSON at a path of this server. Throws ServerError. */
export async function getJson(path, key = "") {
  return (await reach(path, { headers: authorization(key) })).json();
}

/**
 * The answer to a chat completions body, as it comes: `{stages}` with the ms in each until the first
 * token, `{text}` for each piece, `{finish}` with the reason once, `{usage}` at the end. Throws
 * ServerError, and AbortError once `signal` says so.
 */
export async function* chat(body, key, signal) {
  const response = await reach("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  yield { stages: timesOf(response.headers.get("Server-Timing") ?? "") };
  for await (const data of unbroken(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(inWords(chunk.error), chunk.error);
    const [choice] = chunk.choices;
    if (choice?.delta?.content) yield { text: choice.delta.content };
    if (choice?.finish_reason) yield { finish: choice.finish_reason };
    if (chunk.usage) yield { usage: chunk.usage };
  }
  throw brokenOff();
}

/** What a Server-Timing header says, in ms by name. */
function timesOf(header) {
  const entries = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)];
  return Object.fromEntries(entries.map(([, name, ms]) => [name, Number(ms)]));
}

async function* unbroken(body) {
  try {
    yield* events(body);
  } catch (error) {
    throw error.name === "AbortError" ? error : brokenOff();
  }
}

const brokenOff = () =>
  new ServerError("The answer broke off: the connection to the server ended.");

const authorization = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function reach(path, options) {
  let response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  const words = [error ? inWords(error) : `The server answered with status ${response.status}.`];
  const wait = response.headers.get("Retry-After");
  if (wait) words.push(`Try again in ${wait} s.`);
  if (response.status === 401) words.push("Its API key goes into the settings.");
  return new ServerError(words.join(" "), { param: error?.param, status: response.status });
}

function inWords({ message, param }) {
  const text = !param || message.includes(param) ? message : `${param}: ${message}`;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
