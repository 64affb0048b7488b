"""A resident program that does nothing: what is measured is the engine. Standard library only.

The protocol is that of docs/resident.md. It runs as `python3 -c`, so that no image has to hold it.
"""

import json
import sys

IN_FLIGHT = 64


def main() -> None:
    """Answer every message at once, until the input ends."""
    out = sys.stdout
    out.write(json.dumps({"ready": True, "in_flight": IN_FLIGHT, "name": "bench"}) + "\n")
    out.flush()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            out.write(json.dumps({"id": message["id"]}) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
