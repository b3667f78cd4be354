// The question that is being written, and the pictures and videos that will go with it.

import { byId } from "./dom.js";
import { misfit, nameAmong, read, removable } from "./pictures.js";

/** The composer. `facts` are the server's; `earlier()` gives the pictures already asked about. */
export class Draft {
  /** Settles once all files that were given are read. */
  added = Promise.resolve();
  #pictures = [];
  #facts;
  #earlier;
  #question = byId("question");

  constructor(facts, earlier) {
    this.#facts = facts;
    this.#earlier = earlier;
    this.#question.placeholder = facts.question;
    this.#listen();
  }

  /** The question as it would be sent, "" where there is none. */
  get question() {
    const text = this.#question.value.trim();
    return text || (this.#pictures.length ? this.#facts.question : "");
  }

  get pictures() {
    return [...this.#pictures];
  }

  /** Add files of pictures and videos; those that cannot be sent are named and left out. */
  add(files) {
    this.added = this.added.then(() => this.#addEach(files));
    return this.added;
  }

  async #addEach(files) {
    say("");
    for (const file of files) {
      try {
        const others = [...this.#earlier(), ...this.#pictures];
        const problem = misfit(file, others, this.#facts);
        if (problem) throw new Error(problem);
        this.#pictures.push(await read(file, nameAmong(others, file.name)));
      } catch (error) {
        say(error.message);
      }
    }
    this.#show();
  }

  /** Empty it: what was in it is on its way. */
  clear() {
    this.put("", []);
  }

  /** Write a question into it again, with its pictures. */
  put(question, pictures) {
    this.#question.value = question;
    this.#pictures = [...pictures];
    this.#show();
  }

  focus() {
    this.#question.focus();
  }

  #show() {
    const items = this.#pictures.map((picture) =>
      removable(picture, () => {
        this.#pictures = this.#pictures.filter((other) => other !== picture);
        this.#show();
        this.focus();
      }),
    );
    byId("pictures").replaceChildren(...items);
    this.#question.dispatchEvent(new Event("input", { bubbles: true }));
  }

  #listen() {
    for (const input of [byId("files"), byId("camera")]) {
      input.addEventListener("change", async () => {
        const files = [...input.files];
        input.value = ""; // so that the same file can be chosen again
        await this.add(files);
        this.focus();
      });
    }
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    });
    document.addEventListener("dragover", (event) => {
      if (isText(event)) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      if (isText(event)) return;
      event.preventDefault();
      document.body.classList.remove("dropping");
      const files = [...event.dataTransfer.files];
      if (files.length) this.add(files);
      else say("That was no file. Save it first, or copy and paste it.");
    });
  }
}

/** A text that is dragged into a field goes there, as ever. */
const isText = ({ dataTransfer, target }) =>
  !dataTransfer.types.includes("Files") && target.matches?.("textarea, input");

/** Say above the question what went wrong; "" takes it back. */
export function say(problem) {
  byId("alert").textContent = problem;
}
