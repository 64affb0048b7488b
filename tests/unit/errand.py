"""A message for a program: its body is no text, and it says who it comes from."""

from scalebox_actors.message import Message

MESSAGE = Message(module="m", id="1", body=b"\x00body\xff", headers={"k": "v"}, from_module="a")
