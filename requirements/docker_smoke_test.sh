#!/usr/bin/env bash
# Build the image, ask for its version, register a synthetic pair as an ordinary user. Needs Docker.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v docker > /dev/null || { echo "docker is not on this machine" >&2; exit 2; }
docker build --tag nnreg:smoke .
docker run --rm nnreg:smoke --version
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
run() { docker run --rm --user "$(id -u):$(id -g)" --env HOME=/tmp --volume "$folder":/data nnreg:smoke "$@"; }
run synthesize -d 900 --workspace work --pairs 1 --test_pairs 1 --shape 32 32 32
images=work/nnReg_raw/Dataset900_Ellipsoids/imagesTs
mapfile -t found < <(cd "$folder" && ls "$images"/*_0000.nii.gz)
run register "${found[0]}" "${found[1]}" -o registered --preset fast
for name in transform.h5 warped.nii.gz measures.json overview.png; do
    test -s "$folder/registered/$name" || { echo "$name was not written" >&2; exit 1; }
done
echo "the image works"
