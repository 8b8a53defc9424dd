#!/bin/sh
# A direction from casual to formal in the demo model's states, and how far along it is too far. A few minutes on 2 cores.
set -e
cd "$(dirname "$0")"
to="${1:-$(mktemp -d)}"
jeito steer make formal --positive formal.txt --negative casual.txt -m demo@transformers --replace
for model in demo demo@transformers; do
    jeito ask "Invite a friend to a party." -m $model --set max_new_tokens=60 --set 'steering=[{vector: formal, scale: 0.5}]' --seed 1
done
jeito sweep -b plain --set 'steering=[{vector: formal, scale: 1}]' --over steering.0.scale=-2,-1,-0.5,0,0.5,1,2 --tokens 48 \
    --limit 6 --check no_loop --at-least 0.8 --seed 1 --report "$to/formal.html"
