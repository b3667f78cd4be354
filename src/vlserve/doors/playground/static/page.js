// The page: a conversation, the draft of its next question, and the call as code.

import { chatBody } from "./call.js";
import * as code from "./code.js";
import { byId, copy, make } from "./dom.js";
import { Draft, say } from "./draft.js";
import { ServerError, address, chat, getJson } from "./server.js";
import * as settings from "./settings.js";
import { Turn } from "./turn.js";

const RETRY_MS = 1000;
const WIDE = "(min-width: 60rem)";
const isTouched = () => matchMedia("(pointer: coarse)").matches;

const facts = await getJson("playground/facts").catch((error) => {
  say(error.message);
  throw error;
});
const draft = new Draft(facts, () => turns.flatMap(({ pictures }) => pictures));
let turns = []; // those that were answered: what the next question builds upon
let lastCall = null;
let stopping = null; // while an answer comes

settings.prepare(facts, showCode);
for (const id of ["settings", "code"]) byId(id).open = matchMedia(WIDE).matches;
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("composer").addEventListener("input", showCode);
byId("question").addEventListener("keydown", (event) => {
  // Enter asks, but not on a screen keyboard, which has no Shift to break a line with.
  const isAsk = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (!isAsk || isTouched()) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopping?.abort();
});
byId("stop").addEventListener("click", () => stopping?.abort());
byId("clear").addEventListener("click", startAnew);
byId("model").addEventListener("change", showCode);
byId("key").addEventListener("change", listModels);
byId("example").addEventListener("click", addExample);
byId("code").addEventListener("toggle", showCode);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copyProgram(button));
}
showCode();
if (!isTouched()) draft.focus();
await listModels();

async function ask() {
  await draft.added;
  if (stopping) return;
  const { question, pictures } = draft;
  if (!question) {
    say("Write a question, or add a picture.");
    draft.focus();
    return;
  }
  say("");
  settings.mark(null);
  document.querySelector(".failed")?.remove();
  byId("welcome").hidden = true;
  lastCall = nextCall();
  const turn = new Turn(question, pictures);
  byId("turns").append(turn.article);
  turn.article.scrollIntoView({ block: "end" });
  draft.clear();
  stopping = new AbortController();
  showState();
  await answered(turn, stopping.signal);
  stopping = null;
  if (turn.isAnswered) turns.push(turn);
  else if (!draft.question) draft.put(turn.question, turn.pictures);
  showState();
}

/** Let the answer come into `turn`, until it ends in one way or another. */
async function answered(turn, signal) {
  try {
    for await (const piece of chat(chatBody(lastCall), settings.key(), signal)) {
      follow(turn, () => turn.take(piece));
    }
    follow(turn, () => turn.end());
  } catch (error) {
    if (error.name === "AbortError") {
      follow(turn, () => turn.end({ isStopped: true }));
      return;
    }
    turn.fail();
    say(error.message);
    if (!(error instanceof ServerError)) throw error; // a fault of the page: the console has it
    settings.mark(error.param);
  }
}

/** Let a turn grow, and keep its end in sight. Who has scrolled away to read stays there. */
function follow(turn, grow) {
  const isFollowed = turn.article.getBoundingClientRect().bottom <= innerHeight;
  grow();
  if (isFollowed) turn.article.scrollIntoView({ block: "end" });
}

function startAnew() {
  turns = [];
  lastCall = null;
  byId("turns").replaceChildren();
  byId("welcome").hidden = false;
  say("");
  showState();
  draft.focus();
}

function showState() {
  const isAnswering = stopping !== null;
  const [shown, hidden] = isAnswering ? [byId("stop"), byId("ask")] : [byId("ask"), byId("stop")];
  const hadFocus = document.activeElement === hidden;
  shown.hidden = false;
  hidden.hidden = true;
  if (hadFocus) shown.focus(); // the one stands in the other's place
  byId("clear").hidden = isAnswering || !byId("turns").childElementCount;
  showCode();
}

async function listModels() {
  const select = byId("model");
  try {
    const { data } = await getJson("v1/models", settings.key());
    const chosen = select.value;
    select.replaceChildren(...data.map(({ id }) => make("option", {}, id)));
    if (data.some(({ id }) => id === chosen)) select.value = chosen;
    select.disabled = false;
    showWhatItKnows();
    say("");
    showCode();
  } catch (error) {
    say(error.message);
    if (error.status === 503) setTimeout(listModels, RETRY_MS); // it starts
  }
}

/** What the model inside the package knows, where that is the one that answers. */
function showWhatItKnows() {
  const note = byId("demonstration");
  note.textContent = facts.demonstration;
  note.hidden = byId("model").value !== facts.demonstration_model;
}

async function addExample() {
  const response = await fetch(address("playground/example.png"));
  const blob = await response.blob();
  await draft.add([new File([blob], "example.png", { type: blob.type })]);
  draft.focus();
}

/** What asking now would send. */
function nextCall() {
  return {
    model: byId("model").value,
    system: settings.system(),
    parameters: settings.parameters(),
    turns: [
      ...turns.map(({ question, pictures, answer }) => ({ question, pictures, answer })),
      { question: draft.question || facts.question, pictures: draft.pictures },
    ],
  };
}

/** The call whose answer was asked for last, or the next one where a new question is written. */
function shownCall() {
  return draft.question || !lastCall ? nextCall() : lastCall;
}

function program(name) {
  const host = location.hostname;
  const server = {
    base: address("v1"),
    grpcAddress: `${host}:${facts.grpc_port}`,
    hasKey: settings.key() !== "",
  };
  return code[name](shownCall(), server);
}

function showCode() {
  if (!byId("code").open) return;
  for (const shown of document.querySelectorAll("[data-code]")) {
    shown.textContent = code.preview(program(shown.dataset.code));
  }
  const call = shownCall();
  byId("code-note").replaceChildren(
    ...(code.isInside(call)
      ? ["Runs as it is copied, files inside."]
      : ["Too large to be inside, read from files: ", ...savable(call), "."]),
  );
}

/** The files of a call as links that save them, since what was pasted has none yet. */
function savable(call) {
  const links = code
    .picturesOf(call)
    .map(({ name, url }) => make("a", { href: url, download: name }, name));
  return links.flatMap((link) => [", ", link]).slice(1);
}

async function copyProgram(button) {
  const name = button.dataset.copy;
  try {
    await copy(program(name));
    byId("copied").textContent = `${button.textContent.replace("Copy ", "")} is on the clipboard.`;
  } catch (error) {
    byId("copied").textContent = error.message;
  }
}
