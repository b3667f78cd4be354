// Pictures and videos of the draft: read whole and sent as they are; only what is shown is small.

import { isVideo } from "./call.js";
import { make } from "./dom.js";

const MIB = 1024 * 1024;
const THUMBNAIL_HEIGHT = 192; // twice what the page shows, for screens of double density

/**
 * What can be sent of a file: its `name`, `type` and `size`, `url` (data:) and `thumbnail`, in which
 * a video plays. Throws Error where the file cannot be read.
 */
export async function read(file, name) {
  const shown = isVideo(file) ? player : drawn;
  const [url, thumbnail] = await Promise.all([dataUrl(file), shown(file, name)]);
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

/** Why a file cannot go into one request with the others, or "" where it can. */
export function misfit(file, others, { max_images, video_frames, max_message_mib }) {
  if (!isVideo(file) && !file.type.startsWith("image/")) {
    return `${file.name} is neither a picture nor a video.`;
  }
  const all = [...others, file];
  const count = all.reduce((sum, each) => sum + (isVideo(each) ? video_frames : 1), 0);
  if (count > max_images) {
    const videos = all.some(isVideo) ? ` A video counts as ${video_frames}.` : "";
    return `This server takes ${max_images} pictures in a conversation, earlier ones included.${videos}`;
  }
  const mib = all.reduce((sum, { size }) => sum + (4 / 3) * size, 0) / MIB;
  if (mib >= max_message_mib) {
    return (
      `With ${file.name} the request has ${mib.toFixed(1)} MiB, and this server takes ` +
      `${max_message_mib} MiB. Files are sent as they are, a third larger for being text.`
    );
  }
  return "";
}

/** A thumbnail with a button that takes it out of the draft again. */
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
    const { width, height } = bitmap;
    const canvas = make("canvas", { width, height, role: "img", ariaLabel: name });
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
    return canvas;
  } catch {
    return unseen(name);
  }
}

/** A button that plays and pauses a video, without its sound, which the model does not hear. */
function player(file, name) {
  const video = make("video", { loop: true, muted: true, playsInline: true });
  const toggle = () => (video.paused ? video.play() : video.pause());
  const button = make("button", { type: "button", class: "player", onclick: toggle }, video);
  button.ariaLabel = `Play ${name}`;
  const show = () => (button.ariaPressed = String(!video.paused));
  for (const change of ["play", "pause"]) video.addEventListener(change, show);
  show();
  video.addEventListener("error", () => button.replaceWith(unseen(name)));
  const frame = make("span", {}, button);
  video.src = URL.createObjectURL(file);
  return frame;
}

/** A mere name. The server may well know what this browser does not, TIFF and AVI for two. */
function unseen(name) {
  return make("span", { class: "unseen", role: "img", ariaLabel: name }, name);
}
