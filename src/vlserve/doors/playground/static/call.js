// A call, free of any way to send it:
// { model, system, parameters: { max_completion_tokens?, temperature?, top_p?, seed?, stop? },
//   turns: [{ question, pictures, answer }] }, where the last turn waits for its answer. Among the
// pictures are videos.

/** Whether a file is a video, and no picture. */
export const isVideo = ({ type }) => type.startsWith("video/");

/** The body of the call to /v1/chat/completions. `urlOf` says what stands for a picture. */
export function chatBody({ model, system, parameters, turns }, urlOf = ({ url }) => url) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { question, pictures, answer } of turns) {
    messages.push({ role: "user", content: chatContent(question, pictures, urlOf) });
    if (answer) messages.push({ role: "assistant", content: answer });
  }
  return { model, messages, ...parameters };
}

/** The same as a vision.VisionRequest in protobuf's JSON form. `dataOf` gives a picture's base64. */
export function grpcRequest({ model, system, parameters, turns }, dataOf) {
  const messages = system ? [{ role: "ROLE_SYSTEM", parts: [{ text: system }] }] : [];
  for (const { question, pictures, answer } of turns) {
    const parts = pictures.map((picture) => ({
      [isVideo(picture) ? "video" : "image"]: dataOf(picture),
    }));
    messages.push({ role: "ROLE_USER", parts: [...parts, { text: question }] });
    if (answer) messages.push({ role: "ROLE_ASSISTANT", parts: [{ text: answer }] });
  }
  const { max_completion_tokens: max_tokens, ...others } = parameters;
  const sampling = max_tokens === undefined ? others : { max_tokens, ...others };
  return { model, messages, sampling };
}

function chatContent(question, pictures, urlOf) {
  if (!pictures.length) return question;
  const parts = pictures.map((picture) => {
    const type = isVideo(picture) ? "video_url" : "image_url";
    return { type, [type]: { url: urlOf(picture) } };
  });
  return [...parts, { type: "text", text: question }];
}
