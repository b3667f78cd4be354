// Pictures of the draft: read whole and sent as they are; only what is shown of them is small.

import { make } from "./dom.js";

const MIB = 1024 * 1024;
const THUMBNAIL_HEIGHT = 192; // twice what the page shows, for screens of double density

/**
 * A picture that can be sent: its `name`, `type` and `size` of its file, `url` (data:), `thumbnail`.
 * Throws Error where the file is none.
 */
export async function read(file, name) {
  if (!file.type.startsWith("image/")) {
    throw new Error(`${file.name} is not a picture.`);
  }
  const [url, thumbnail] = await Promise.all([dataUrl(file), drawn(file, name)]);
  return { name, type: file.type, size: file.size, url, thumbnail };
}

/** A name of its own among others: whatever is pasted calls itself image.png. */
export function nameAmong(others, name) {
  const taken = new Set(others.map((picture) => picture.name));
  const dot = name.lastIndexOf(".");
  const [stem, ending] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
  let free = name;
  for (let number = 2; taken.has(free); number += 1) free = `${stem}-${number}${ending}`;
  return free;
}

/** Why these pictures cannot go into one request, or "" where they can. */
export function tooMuch(pictures, { max_images, max_message_mib }) {
  if (pictures.length > max_images) {
    return `This server takes ${max_images} pictures in a conversation, earlier ones included.`;
  }
  const mib = pictures.reduce((sum, { url }) => sum + url.length, 0) / MIB;
  if (mib >= max_message_mib) {
    return (
      `These pictures make a request of ${mib.toFixed(1)} MiB, and this server takes ` +
      `${max_message_mib} MiB. They are sent as they are, a third larger for being text.`
    );
  }
  return "";
}

/** A thumbnail with a button that takes the picture out of the draft again. */
export function removable(picture, onRemove) {
  const remove = make("button", { type: "button", class: "remove", onclick: onRemove }, "×");
  remove.ariaLabel = `Remove ${picture.name}`;
  return make("li", { title: picture.name }, picture.thumbnail, remove);
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

async function drawn(file, name) {
  try {
    const bitmap = await createImageBitmap(file, {
      resizeHeight: THUMBNAIL_HEIGHT,
      resizeQuality: "high",
    });
    const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
    return labelled(canvas, name);
  } catch {
    // The server may well know what this browser does not, TIFF for one.
    return labelled(make("span", { class: "unseen" }, name), name);
  }
}

function labelled(element, name) {
  element.role = "img";
  element.ariaLabel = name;
  return element;
}
