"""A filter: each line becomes a JSON object. Nothing here knows shmd."""

import json
import sys

for line in sys.stdin:
    word = line.rstrip("\n")
    print(json.dumps({"word": word, "length": len(word)}), flush=True)
