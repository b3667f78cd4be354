// The settings of a call, as they stand in the form. What is left empty is not sent.

import { byId } from "./dom.js";

const KEY = "vlserve-key"; // of this tab's storage: gone when the tab is
const form = byId("parameters");

/** The system message. */
export const system = () => form.elements.system.value.trim();

/** The parameters by their names in the API. */
export function parameters() {
  const given = {};
  for (const input of form.querySelectorAll('[type="number"]')) {
    if (input.value !== "") given[input.name] = input.valueAsNumber;
  }
  const stop = form.elements.stop.value.split("\n").filter(Boolean);
  return stop.length ? { ...given, stop } : given;
}

/** The API key, "" where none is set. */
export const key = () => byId("key").value;

/** Fill in what the server does by itself, and the key of this tab. `onChange` hears of each edit. */
export function prepare({ default_max_tokens }, onChange) {
  form.elements.max_completion_tokens.value = default_max_tokens;
  byId("key").value = sessionStorage.getItem(KEY) ?? "";
  byId("key").addEventListener("change", () => sessionStorage.setItem(KEY, key()));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", onChange);
}

/** Show which field the server refused; null takes it back. */
export function mark(param) {
  for (const input of form.elements) {
    input.ariaInvalid = input.name && input.name === param ? "true" : null;
    if (input.ariaInvalid) byId("settings").open = true;
  }
}
