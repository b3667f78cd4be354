#!/usr/bin/env bash
# Asks about a picture with curl and jq and prints the answer as it comes:
# ask.sh --image PATH [--server URL] [PROMPT]
set -euo pipefail

server=http://localhost:8000 image='' prompt='Describe the image'
while (($#)); do
  case $1 in
    --image) image=$2 && shift 2 ;;
    --server) server=$2 && shift 2 ;;
    *) prompt=$1 && shift ;;
  esac
done
[[ -r $image ]] || { echo "usage: $0 --image PATH [--server URL] [PROMPT]" >&2 && exit 2; }

model=$(curl -sS --fail-with-body "$server/v1/models" | jq -r '.data[0].id')
# The picture goes through pipes: it would be too long for a command line.
base64 -w0 "$image" |
  jq -R --arg kind "$(file -b --mime-type "$image")" --arg model "$model" --arg prompt "$prompt" '{
    model: $model,
    stream: true,
    messages: [{role: "user", content: [
      {type: "image_url", image_url: {url: "data:\($kind);base64,\(.)"}},
      {type: "text", text: $prompt}
    ]}]
  }' |
  curl -sS --no-buffer --fail-with-body --json @- "$server/v1/chat/completions" |
  # A stream is lines of "data: {...}", the last one "data: [DONE]"; an error is one object.
  sed -u -n -e 's/^data: {/{/p; t' -e '/^{/p' |
  jq --unbuffered -rj '.choices[0].delta.content // .error.message // empty'
echo
