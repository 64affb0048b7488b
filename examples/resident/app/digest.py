"""A resident program: it stays, reads a message a line and answers with a line."""

import hashlib
import json
import sys
from pathlib import Path

answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not be an answer


def say(**line):
    """Write one line; it must go out at once."""
    print(json.dumps(line), file=answers, flush=True)


def body_of(message):
    """Return the body: text, or if it is long, the file `body` in the message's own folder."""
    if "body" in message:
        return message["body"].encode()
    return Path(message["work"], "body").read_bytes()


say(ready=True, in_flight=16, name="digest 1")  # 16 messages may be on their way to us
for line in sys.stdin:  # ends when the node wants us to end
    message = json.loads(line)
    try:
        result = hashlib.sha256(body_of(message)).hexdigest()
    except (KeyError, OSError) as error:
        say(id=message["id"], exit=1, detail=str(error))
    else:
        say(id=message["id"], sink=[{"body": result, "headers": {"of": message["id"]}}])
