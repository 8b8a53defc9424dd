#!/bin/sh
# The demo model learns to answer in a numbered list without being told to. Nothing is downloaded; 2 cores are enough.
set -e
cd "$(dirname "$0")"
to="${1:-$(mktemp -d)}"
jeito pairs numbered.yaml -m demo --cases cases.jsonl --repeats 2 --bake --to "$to/pairs"
jeito tune numbered.yaml -m demo --data "$to/pairs" --batch 4 --replace --repeats 1 \
    --other plain+temperature=0+max_new_tokens=160 --other-cases train:en:simple:16 --report "$to/numbered.html"
jeito adapters
for model in demo demo@transformers; do
    jeito ask "What is a museum for?" -b 'plain+adapter=[{path: numbered}]' -m $model --set max_new_tokens=96 --seed 1
done
jeito compare "What is a museum for?" -b plain+max_new_tokens=96 --adapters none,numbered --seed 1
jeito compare -b 'numbered.yaml+system=""' --adapters none,numbered --cases "$to/pairs/held_out_cases.jsonl" -n 8 --seed 1
