#!/bin/sh
# Keeps of fuzz/corpus/ the fewest inputs that reach everything which all of them reach. Run after `make fuzz`.
set -eu
cd "$(dirname "$0")/.."

for target in operator etcd client; do
    kept=fuzz/corpus/$target
    all=$(mktemp -d)
    mv "$kept" "$all/inputs"
    mkdir "$kept"
    cargo fuzz run --sanitizer none $target "$kept" "$all/inputs" -- -set_cover_merge=1 -use_counters=0 -max_len=1024
    rm -r "$all"
done
du -sh --apparent-size fuzz/corpus
