// One question by one unmodified client: node clients.mjs CLIENT MODE ADDRESS PICTURE TEXT.
// Prints the answer alone. Imports resolve from the folder in which packages were installed.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [name, mode, address, picture, text] = process.argv.slice(2);
const resolve = createRequire(`${process.cwd()}/package.json`).resolve;
const load = (module) => import(pathToFileURL(resolve(module)));
const baseURL = `http://${address}/v1`;
const bytes = readFileSync(picture);
const url = `data:image/png;base64,${bytes.toString("base64")}`;
const content = [{ type: "image_url", image_url: { url } }, { type: "text", text }];
const streamed = mode === "streamed";
const model = "embedded";

const CLIENTS = {
  "openai-node": async () => {
    const { OpenAI } = await load("openai");
    const client = new OpenAI({ baseURL, apiKey: "none" });
    const messages = [{ role: "user", content }];
    if (!streamed) {
      const done = await client.chat.completions.create({ model, messages });
      return done.choices[0].message.content;
    }
    return await client.chat.completions.stream({ model, messages }).finalContent();
  },
  "LangChain.js": async () => {
    const { ChatOpenAI } = await load("@langchain/openai");
    const { HumanMessage } = await load("@langchain/core/messages");
    const chat = new ChatOpenAI({ model, apiKey: "none", configuration: { baseURL } });
    const messages = [new HumanMessage({ content })];
    if (!streamed) return (await chat.invoke(messages)).content;
    let answer = "";
    for await (const piece of await chat.stream(messages)) answer += piece.content;
    return answer;
  },
  "AI SDK": async () => {
    const { createOpenAI } = await load("@ai-sdk/openai");
    const { generateText, streamText } = await load("ai");
    const chat = createOpenAI({ baseURL, apiKey: "none" }).chat(model);
    const parts = [{ type: "image", image: bytes, mediaType: "image/png" }, { type: "text", text }];
    const asked = { model: chat, messages: [{ role: "user", content: parts }] };
    if (!streamed) return (await generateText(asked)).text;
    let answer = "";
    for await (const piece of streamText(asked).textStream) answer += piece;
    return answer;
  },
};

console.log((await CLIENTS[name]()).trim());
