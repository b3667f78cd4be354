// One question with its pictures and its answer, on the page.

import { make } from "./dom.js";
import { shownStages } from "./stages.js";

/** What an answer took: its clock starts when it is made. Times in ms. */
class Clock {
  #begin = performance.now();
  #first = 0;
  #end = 0;

  token() {
    this.#first ||= performance.now();
  }

  stop() {
    this.#end = performance.now();
  }

  get decode() {
    return this.#first && this.#end - this.#first;
  }

  get total() {
    return this.#end - this.#begin;
  }

  /** Time to first token, tokens a second after it, time in all. */
  figures({ completion_tokens: tokens = 0 } = {}) {
    const said = [];
    if (this.#first) said.push(`first token ${seconds(this.#first - this.#begin)}`);
    if (this.#first && tokens > 1) {
      said.push(`${((tokens - 1) / (this.decode / 1000)).toFixed(1)} tokens/s`);
    }
    return [...said, `${seconds(this.total)} in all`];
  }
}

/** A turn that is shown. `answer` is its text so far; `isAnswered` once it may be built upon. */
export class Turn {
  answer = "";
  isAnswered = false;
  #clock = new Clock();
  #finish = "";
  #usage;
  #stages;
  #text = make("p", { class: "answer" });
  #notes = make("p", { class: "notes" });

  constructor(question, pictures) {
    this.question = question;
    this.pictures = pictures;
    this.article = make(
      "article",
      {},
      make("div", { class: "thumbnails" }, ...pictures.map(({ thumbnail }) => thumbnail)),
      make("p", { class: "asked" }, question),
      this.#text,
      this.#notes,
    );
    // Who listens to the page hears an answer once it is whole, not word by word.
    this.article.ariaBusy = "true";
  }

  /** Take in a piece of the answer as the server's `chat` yields it. */
  take({ text = "", finish, usage, stages }) {
    if (text) {
      this.#clock.token();
      this.answer += text;
      this.#text.append(text);
    }
    this.#finish = finish ?? this.#finish;
    this.#usage = usage ?? this.#usage;
    this.#stages = stages ?? this.#stages;
  }

  /** The answer has ended, or was stopped. One that was stopped before its first token is none. */
  end({ isStopped = false } = {}) {
    this.#clock.stop();
    this.isAnswered = !isStopped || this.answer.trim() !== "";
    this.article.classList.toggle("failed", !this.isAnswered);
    const notes = this.#clock.figures(this.#usage);
    if (isStopped) notes.unshift("stopped");
    if (this.#finish === "length") notes.unshift("cut off at max tokens");
    if (this.#usage) notes.push(...tokens(this.#usage));
    this.#close(notes.join(" · "));
    if (this.#stages) this.article.append(this.#shownStages());
  }

  /** The answer failed: what came of it stays to be read, and is not built upon. */
  fail() {
    this.article.classList.add("failed");
    this.#close(this.answer ? "Not answered to the end." : "Not answered.");
  }

  /** The server's own times, and from the first token on the page's. */
  #shownStages() {
    const { decode, total } = this.#clock;
    return shownStages({ ...this.#stages, decode }, total);
  }

  #close(notes) {
    this.#notes.textContent = notes;
    this.article.ariaBusy = "false";
  }
}

const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

function tokens({ prompt_tokens, completion_tokens, prompt_tokens_details: details }) {
  const parts = [];
  if (details?.image_tokens) parts.push(`${details.image_tokens} of pictures`);
  if (details?.cached_tokens) parts.push(`${details.cached_tokens} known before`);
  const inside = parts.length ? ` (${parts.join(", ")})` : "";
  return [`${prompt_tokens} tokens asked${inside}`, `${completion_tokens} answered`];
}
