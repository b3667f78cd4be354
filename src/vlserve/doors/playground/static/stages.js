// Where the time of an answer went, as a bar and in words.

import { make } from "./dom.js";

// In the order of a request's trip. What is left over is on the way: processes, the network.
const TRIP = ["fetch", "media-decode", "preprocess", "encode", "queue", "prefill", "decode"];
const LEAST_MS = 0.5;

/** An element that shows `stages`, ms by name, of an answer that took `total` in all. */
export function shownStages(stages, total) {
  const spent = TRIP.map((name) => [name, stages[name] ?? 0]);
  const rest = total - spent.reduce((sum, [, ms]) => sum + ms, 0);
  const shown = [...spent, ["elsewhere", rest]].filter(([, ms]) => ms >= LEAST_MS);
  const lengths = make("div", { class: "lengths", ariaHidden: "true" });
  const words = make("ul", { ariaLabel: "Where the time went" });
  for (const [name, ms] of shown) {
    const length = patch(name);
    length.style.flexGrow = ms;
    lengths.append(length);
    words.append(make("li", {}, patch(name), `${name} ${inWords(ms)}`));
  }
  return make("div", { class: "stages" }, lengths, words);
}

const patch = (name) => make("span", { class: name });

const inWords = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
