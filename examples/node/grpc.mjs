// Asks a vlserve server about a picture over gRPC and prints the answer as it comes.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    image: { type: "string" },
    server: { type: "string", default: "localhost:50051" },
  },
});

// No generated code: the package reads the file itself.
const proto = fileURLToPath(new URL("../../proto/vision.proto", import.meta.url));
const { vision } = grpc.loadPackageDefinition(loadSync(proto, { defaults: true }));
const client = new vision.VisionService(values.server, grpc.credentials.createInsecure());

const request = {
  image: readFileSync(values.image),
  prompt: positionals[0] ?? "Describe the image",
};
try {
  for await (const piece of client.chatStream(request, { deadline: Date.now() + 60_000 })) {
    process.stdout.write(piece.text);
  }
  process.stdout.write("\n");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  client.close();
}
