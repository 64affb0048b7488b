"""Every limit in one place; `docs/limits.md` shows the same table, and a test compares the two.

Sizes in bytes, times in seconds.
"""

KIB = 1024
MIB = 1024 * KIB

TOPOLOGY_BYTES = 1 * MIB
TOPOLOGY_DEPTH = 16
TOPOLOGY_NODES = 50_000
TOPOLOGY_MODULES = 256
FAULTS_SHOWN = 20
"""Of one file; no more are sought."""
SINKS_PER_MODULE = 64
SITES = 32
PRIORITY = 100
"""What crosses a link goes by priorities of minus to plus this."""
NAME_LENGTH = 48
LABEL_LENGTH = 256
COMMAND_ARGUMENTS = 1_000
ENV_VARIABLES = 256
ENV_NAME_LENGTH = 128
MOUNTS_PER_MODULE = 64
DEVICES_PER_MODULE = 64
GROUP_MEMBERS = 10_000
PATTERN_LENGTH = 256
CPUS_MINIMUM = 0.01
PIDS_CEILING = 4_194_304
WARM_PER_MODULE = 64
WARM_ARGUMENT_BYTES = 128 * KIB
"""A message with more in its arguments gets a new container also where some are started ahead."""
WARM_START = 60.0
"""So long a container that is started ahead may take until it waits for its message."""
WARM_PAUSE = 300.0
"""So long none are started ahead after one that never can be."""
WARM_LOOK = 5.0
"""So often those that wait are looked at: their age, their image, whether they live."""
BATCH_TASKS = 1_000
"""Messages that a slot takes at once."""
ATOMIC_BATCH_TASKS = 500
"""Of a batch that is stored as one: at least as many outputs fit beside its records."""
KEEP_RUNS = 1_000_000
SLOT_RESTARTS = 1_000
RESIDENT_IN_FLIGHT = 256
"""Messages that one resident program may have at once."""
RESIDENT_IN_HAND = 1_024
"""Messages of a module with resident programs on a node, over all its slots."""
SLOT_START = 900.0
"""So long a slot's container and its `setup` hook may take."""
SLOT_TEARDOWN = 30.0
SLOT_CHECK = 6.0
"""So long a slot waits after a `check` hook that said No."""
SLOT_SHORT_RUNS = 3
"""So many runs on end that are too short close a slot."""
SLOT_REOPEN = 600.0
"""After so long a slot that was closed gets another chance."""
GPUS_CEILING = 64
"""Of one run."""
FUNCTION_SLOTS = 64
"""Slots of a module that is a function, unless it says otherwise."""

ID_LENGTH = 128
HEADER_BLOCK_BYTES = 16 * KIB
SYSTEM_HEADER_BYTES = 2 * KIB
"""Of the header block, kept for `Nats-*` and `Sbx-*`."""
USER_HEADERS = 64
USER_HEADER_NAME = 64
USER_HEADER_VALUE = 256
ARGUMENT_BYTES = 131_071
"""The longest single argument of a Linux process, without its NUL."""
HOPS = 64
HOPS_CEILING = 10_000

OUTPUTS_PER_TASK = 999
OUTPUT_FILE_BYTES = 4 * MIB
EXTRA_ATTRIBUTE_BYTES = 64 * KIB
INSIGHT_LINES = 1_000
"""Lines of `timestamps.txt` and `network-files.txt` that are kept."""
FILE_LINES = 50_000
"""Lines of `input-files.txt`, `output-files.txt` and `removed-files.txt` that are read."""
MEASURED_ENTRIES = 1_000_000
"""Entries of the directories that a run declares as read or written."""
RUN_WARNINGS = 20
BATCH_MESSAGES = 1_000
BATCH_BYTES = 16 * MIB
PARCEL_MESSAGES = 256
PARCEL_BYTES = 256 * KIB
"""Messages for another site that are stored as one."""

FAILING_RUNS = 3
RETRIES_CEILING = 100
STARTS_PER_TASK = 5
DELIVERIES_WITHOUT_START = 20
SLOTS_PER_NODE = 256
MESSAGES_AHEAD = 128
"""Where runs are short, so many messages, or as many as slots, are at hand for the next ones."""
SETTLING = 512
"""So many tasks of a module, or as many as it has slots, may be settled beside those that run: as
many as a commit and its acks, each of which the server syncs, can keep on their way."""
SETTLING_BYTES = 64 * MIB
"""Of the messages and outputs of those tasks."""
RUN_SECONDS = 30 * 24 * 3600
STOP_GRACE = 10.0
CLOSE_GRACE = 1.0
"""Seconds that programs have which end with their node."""

RESIDENT_BODY_BYTES = 64 * KIB
"""Longer bodies are given to a resident program in a file."""
RESIDENT_LINE_BYTES = 4 * MIB
RESIDENT_FAULTS = 10
"""Lines of one resident program that mean nothing."""
RESIDENT_HEARTBEAT = 1.0
"""The shortest heart-beat that a resident program may promise."""
RESIDENT_BEATS_LOST = 3
RESIDENT_HUSH = 0.5
"""A resident program that says nothing for so long at its start gets its first message."""
RESIDENT_REPEATS = 5
"""So often a message is given to another resident program for what was not its fault."""

OUTPUT_TEXT_BYTES = 65_535
OUTPUT_TEXT_CEILING = 1 * MIB
LOG_TAIL_BYTES = 64 * KIB
CONTAINER_LOG_BYTES = 10 * MIB
MEMORY_MINIMUM = 6 * MIB

ACK_WAIT = 60.0
HEARTBEAT = 20.0
DONE_RECORD_LIFE = 24 * 3600
DONE_RECORD_MEMORY = 234
"""Bytes of server memory for each done-record, as measured."""
TRACE_LIFE = 14 * 24 * 3600
STREAM_BYTES = 10 * 1024 * MIB
TRACE_BYTES = 1024 * MIB

NATS_PING = 5
NATS_PINGS_LOST = 2
SERVER_SILENCE = 600.0
"""So long a server that is starting may neither log nor compute before it is given up."""
NATS_REQUEST = 5.0
ENGINE_CALL = 10.0
LINK_SILENT = 3.0
LINK_UNANSWERED = 3
"""A link on which nothing is acknowledged for so long, and over so many repeats, is made anew."""
CLERK_WAIT = 5.0
"""So long another site has to answer a question."""
CLERK_WORK = 60.0
"""So long another site has to do what it was told."""
CLERK_PAGE = 256 * KIB
"""So much of bodies and records goes into one answer of another site, and one item more."""
MEMORY_RESERVE = 1024 * MIB
"""Of a host's memory, or an eighth if that is less, is no run's unless the operator says so."""
RESOURCES_HELD = 2.0
"""So long a message in hand may wait for room on its node before it is given back."""
RESOURCES_REST = 10.0
"""So long after that the node leaves the module's messages to others, unless its turn comes."""
RESOURCES_TURN = 2.0
"""So long what was kept for a module whose turn has come waits for its message."""
FREE_SPACE = 256 * MIB
"""With less room for work directories a node takes no more messages."""
MEMORY_WORK = 1024 * MIB
"""With less room in memory, `--work memory` means the store."""
LOOP_LATE = 5.0
REAPER_EVERY = 60.0
REAPER_GRACE = 300.0
