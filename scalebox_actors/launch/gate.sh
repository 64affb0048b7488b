# The gate of a warm container: what it executes until its message comes. It waits for one line from
# its node and then becomes the program, by way of the file `run`, which the node has written: what a
# message says comes here as quoted words only. A pipe that ends says that there is no node any more.
#
# The arguments are the program, as the image and the module name it, and one word more, so that an
# image's own command is never taken for it.

cd "${0%/*}" || exit 125
exec 3<in 4<>out
_sbx_left=$#
while [ "$_sbx_left" -gt 1 ]; do
    set -- "$@" "$1"
    shift
    _sbx_left=$((_sbx_left - 1))
done
shift
# What cannot be executed is said before a message is given to it.
if [ "$#" -gt 0 ]; then
    _sbx_path=$(command -v "$1") || _sbx_path=
    case $_sbx_path in
    /*) if [ -d "$_sbx_path" ] || [ ! -x "$_sbx_path" ]; then _sbx_path=; fi ;;
    esac
    if [ -z "$_sbx_path" ]; then
        echo absent >&4
        exit 125
    fi
fi
echo ready >&4
exec 4>&-
_sbx_word=
IFS= read -r _sbx_word <&3 || _sbx_word=
exec 3<&-
if [ "$_sbx_word" != go ]; then
    echo 'sbx-gate: never opened' >&2
    exit 125
fi
trap 'echo "sbx-gate: not executed" >&2' EXIT
. ./run
