#!/bin/sh
# Answers every message with its own body, as a text of so many bytes.
token='"\([^"\\]\|\\.\)*"'                      # a string of JSON, quotes included

while IFS= read -r line; do
    id=$(printf '%s\n' "$line" | sed -n "s/^{\"id\":\($token\).*/\1/p")
    body=$(printf '%s\n' "$line" | sed -n "s/.*,\"body\":\($token\)}\$/\1/p")
    if [ -z "$body" ]; then
        printf '{"id":%s,"exit":2,"detail":"no text"}\n' "$id"
    else
        printf '{"id":%s,"sink":[{"body":%s}],"log":"%s bytes"}\n' "$id" "$body" "${#body}"
    fi
done
