// Asks about a picture with the openai package and prints the answer as it comes.
import { readFileSync } from "node:fs";
import { extname } from "node:path";
import { parseArgs } from "node:util";
import OpenAI from "openai";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    image: { type: "string" },
    server: { type: "string", default: "http://localhost:8000" },
  },
});

const kind = extname(values.image).slice(1).toLowerCase().replace("jpg", "jpeg");
const url = `data:image/${kind};base64,${readFileSync(values.image, "base64")}`;
// The package wants a key; this server asks for none.
const client = new OpenAI({ baseURL: `${values.server}/v1`, apiKey: "none" });
try {
  const models = await client.models.list();
  const stream = await client.chat.completions.create({
    model: models.data[0].id,
    messages: [
      {
        role: "user",
        content: [
          { type: "image_url", image_url: { url } },
          { type: "text", text: positionals[0] ?? "Describe the image" },
        ],
      },
    ],
    stream: true,
  });
  for await (const chunk of stream) {
    process.stdout.write(chunk.choices[0].delta.content ?? "");
  }
  process.stdout.write("\n");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
