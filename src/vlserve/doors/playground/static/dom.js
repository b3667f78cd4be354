// Elements without innerHTML: text stays text.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element with properties (a `class` among them) and children, texts or elements. */
export function make(tag, properties = {}, ...children) {
  const { class: className = "", ...rest } = properties;
  const element = Object.assign(document.createElement(tag), { className, ...rest });
  element.append(...children);
  return element;
}

/** Put a text on the clipboard, also where the page came over plain HTTP from another machine. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const focused = document.activeElement;
  const area = make("textarea", { class: "hidden", value: text });
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!isCopied) throw new Error("This browser let nothing be copied.");
}
