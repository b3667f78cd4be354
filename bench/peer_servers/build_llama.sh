#!/usr/bin/env bash
# llama.cpp's own server, for this very processor, out of the sources that llama-cpp-python ships:
# that package's own server answers one request at a time. usage: build_llama.sh PYTHON TARGET
set -euo pipefail
python=$1 target=$2 version=0.3.36
jobs=${BUILD_JOBS:-1}
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
"$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python \
    --dest "$sources" "llama-cpp-python==$version"
tar --extract --gzip --strip-components 1 --directory "$sources" --file "$sources"/*.tar.gz
"$python" -m cmake -S "$sources/vendor/llama.cpp" -B "$sources/build" \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
"$python" -m cmake --build "$sources/build" --target llama-server --parallel "$jobs"
mkdir -p "$target/bin"
cp "$sources/build/bin/llama-server" "$target/bin/"
echo "$version" > "$target/version.txt"
