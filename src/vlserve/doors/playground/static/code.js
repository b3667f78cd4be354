// A call as programs that run as they are copied.
//
// Small pictures and videos are inside the program: it needs no file, which what was pasted does
// not have.
// Beyond INSIDE_BYTES together that is too much to paste, and each is read from a file of its name.

import { chatBody, grpcRequest } from "./call.js";

export const INSIDE_BYTES = 256 * 1024;
// In a text that a user wrote there is no NUL, so this is nothing but a place for a picture.
const PLACE = /"\\u0000(\d+)"/g;
const place = (number) => `\u0000${number}`;

/** The call's pictures, in order. */
export const picturesOf = ({ turns }) => turns.flatMap(({ pictures }) => pictures);

/** Whether the programs hold the pictures themselves. */
export const isInside = (call) =>
  picturesOf(call).reduce((sum, { size }) => sum + size, 0) <= INSIDE_BYTES;

/** A shell command; the answer comes in one piece, as JSON. */
export function curl(call, { base, hasKey }) {
  const pictures = picturesOf(call);
  let json = JSON.stringify(chatBody(call, urlOf(call)), null, 2);
  if (!isInside(call)) {
    // The shell puts the files in, so whatever else it would read into the text is escaped.
    const read = (_, number) => `"data:${pictures[number].type};base64,${shellBase64(pictures[number])}"`;
    json = json.replace(/[\\$`]/g, "\\$&").replace(/"\\\\u0000(\d+)"/g, read);
  }
  return [
    `curl -sS ${quoted(`${base}/chat/completions`)} \\`,
    "  -H 'Content-Type: application/json' \\",
    ...(hasKey ? ['  -H "Authorization: Bearer $API_KEY" \\'] : []),
    `  --data-binary @- <<${isInside(call) ? "'JSON'" : "JSON"}`,
    json,
    "JSON",
    "",
  ].join("\n");
}

/** A program for the openai package that prints the answer as it comes. */
export function python(call, { base, hasKey }) {
  const { messages, ...others } = chatBody(call, urlOf(call));
  const lines = Object.entries(others).map(([name, value]) => `    ${name}=${literal(value)},`);
  const dataUrl = ({ name, type }) => `"data:${type};base64," + encoded(${literal(name)})`;
  return [
    ...imports(call, ["base64", hasKey && "os"]),
    "from openai import OpenAI",
    ...encodedFunction(call),
    "",
    `client = OpenAI(base_url=${literal(base)}, api_key=${hasKey ? 'os.environ["API_KEY"]' : '"none"'})`,
    "stream = client.chat.completions.create(",
    ...lines,
    `    messages=${indented(withFiles(call, literal(messages), dataUrl))},`,
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    "print()",
    "",
  ].join("\n");
}

/** A program for grpcio that learns the messages from the server, so it needs no stubs. */
export function grpc(call, { grpcAddress, hasKey }) {
  const dataOf = isInside(call)
    ? ({ url }) => url.slice(url.indexOf(",") + 1)
    : urlOf(call);
  const file = ({ name }) => `encoded(${literal(name)})`;
  const request = withFiles(call, literal(grpcRequest(call, dataOf)), file);
  const metadata = hasKey ? ', metadata=[("authorization", "Bearer " + os.environ["API_KEY"])]' : "";
  return [
    "# pip install grpcio grpcio-reflection. With stubs made from vision.proto the same call is",
    "# VisionServiceStub(channel).ChatStream(request).",
    ...imports(call, ["base64", hasKey && "os"]),
    "import grpc",
    "from google.protobuf.descriptor_pool import DescriptorPool",
    "from google.protobuf.json_format import ParseDict",
    "from google.protobuf.message_factory import GetMessageClass",
    "from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (",
    "    ProtoReflectionDescriptorDatabase,",
    ")",
    ...encodedFunction(call),
    "",
    `channel = grpc.insecure_channel(${literal(grpcAddress)})`,
    "pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))",
    'Request = GetMessageClass(pool.FindMessageTypeByName("vision.VisionRequest"))',
    'Response = GetMessageClass(pool.FindMessageTypeByName("vision.VisionResponse"))',
    "chat = channel.unary_stream(",
    '    "/vision.VisionService/ChatStream", Request.SerializeToString, Response.FromString',
    ")",
    `request = ParseDict(${request}, Request())`,
    `for piece in chat(request${metadata}):`,
    '    print(piece.text, end="", flush=True)',
    "print()",
    "",
  ].join("\n");
}

/** A program to look at: long stretches of base64 cut short. */
export const preview = (program) =>
  program.replace(/[A-Za-z0-9+/=]{200,}/g, (data) => `${data.slice(0, 32)}…`);

function urlOf(call) {
  if (isInside(call)) return ({ url }) => url;
  const pictures = picturesOf(call);
  return (picture) => place(pictures.indexOf(picture));
}

// Texts, numbers, lists and objects of JSON are Python's as well.
const literal = (value) => JSON.stringify(value, null, 4);

const indented = (text) => text.replaceAll("\n", "\n    ");

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const shellBase64 = ({ name }) => `$(base64 < ${quoted(`./${name}`)} | tr -d '\\n')`;

function withFiles(call, text, expression) {
  const pictures = picturesOf(call);
  return text.replace(PLACE, (_, number) => expression(pictures[number]));
}

function imports(call, [base64, os]) {
  const names = [!isInside(call) && base64, os].filter(Boolean);
  return names.length ? [...names.map((name) => `import ${name}`), ""] : [];
}

function encodedFunction(call) {
  if (isInside(call)) return [];
  return [
    "",
    "",
    "def encoded(path):",
    '    with open(path, "rb") as file:',
    "        return base64.b64encode(file.read()).decode()",
    "",
  ];
}
