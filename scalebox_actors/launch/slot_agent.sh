# The agent of a slot: what its container executes. It runs one program after another and says with
# which exit code each one ended. What a message says never comes here but in `task`, quoted by the
# node; a line from the node names the run, so unguessably that no program can answer for another.
#
# The first argument `alone`: nothing but ours lives in this pid namespace, so a signal to everything
# ends what a run has left behind. A shell that is not alone must never do that. The other arguments
# are the program that the image and the module name, which `task` executes if there is one.

_sbx_door=${0%/*}
_sbx_over=
_sbx_alone=
exec 3<"$_sbx_door/in" 4>"$_sbx_door/out" 5>"$_sbx_door/stdout" 6>"$_sbx_door/stderr"
unset TINI_KILL_PROCESS_GROUP
if [ "$1" = alone ] && { [ "$$" = 1 ] || [ "$PPID" -le 1 ]; }; then _sbx_alone=yes; fi
shift
# The program has got the signal too. Once it has ended we say so, and go.
trap '_sbx_over=yes' TERM

# Set _sbx_path to the hook $1, or to nothing: from its variable, or where Scalebox looks.
_sbx_find() {
    case $1 in
    setup) _sbx_path=${ACTION_SETUP-} ;;
    check) _sbx_path=${ACTION_CHECK-} ;;
    run) _sbx_path=${ACTION_RUN-} ;;
    teardown) _sbx_path=${ACTION_TEARDOWN-} ;;
    *) _sbx_path=- ;;
    esac
    [ -z "$_sbx_path" ] || return 0
    for _sbx_path in "/app/bin/$1.sh" "/app/share/bin/$1.sh"; do
        [ ! -e "$_sbx_path" ] || return 0
    done
    _sbx_path=
}

echo "ready $$" >&4
while [ -z "$_sbx_over" ] && IFS=' ' read -r _sbx_run _sbx_hook <&3; do
    _sbx_find "${_sbx_hook#has-}"
    if [ -z "$_sbx_path" ]; then
        echo "$_sbx_run none" >&4
        continue
    fi
    if [ "${_sbx_hook#has-}" != "$_sbx_hook" ]; then
        echo "$_sbx_run 0" >&4
        continue
    fi
    # In the foreground: a program in the background of a shell would ignore interrupts.
    (
        trap - TERM
        . "$_sbx_door/task"
    ) </dev/null >&5 2>&6 3<&- 4>&- 5>&- 6>&-
    _sbx_code=$?
    # A signal finds what is dying too: the empty program is waited for, and they with it. What
    # hangs in the kernel is not waited for long.
    _sbx_turns=
    while [ -n "$_sbx_alone" ] && kill -9 -1 2>/dev/null && [ "${#_sbx_turns}" -lt 200 ]; do
        (:)
        _sbx_turns=.$_sbx_turns
    done
    # What the shell and, in the second line, all its children have used so far goes before.
    {
        times
        echo "$_sbx_run $_sbx_code"
    } >&4
done
