# Shared by every script in this directory; sourced, never run.
#
# A cluster is a directory (TENURE_CLUSTER_DIR, default .cluster) with a `settings` file and one directory per node:
#   n1/data   the node's data directory        n1/log   what it printed, over all its runs        n1/pid   its process id
# A process is signalled only when /proc shows that it runs with exactly this node's data directory. The pid file is for
# people: one that is left over from before a reboot can never hit a stranger.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CLUSTER_DIR=$(realpath -m "${TENURE_CLUSTER_DIR:-$ROOT/.cluster}")
SETTINGS=$CLUSTER_DIR/settings
START_TIMEOUT_SECS=${TENURE_START_TIMEOUT_SECS:-60}
STOP_TIMEOUT_SECS=${TENURE_STOP_TIMEOUT_SECS:-20}

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Prints the comment at the top of the calling script and ends, if its first argument asks for help.
help_if_asked() {
    case "${1:-}" in
    -h | --help)
        awk 'NR > 1 && /^#/ { sub(/^# ?/, ""); print; next } NR > 1 { exit }' "$0"
        exit 0
        ;;
    esac
}

# Sets NODES, BASE_PORT and FAULTS (whether faults can be put into nodes): as the cluster was made, else from the environment.
# And STARTED_BIN: the server that it was started with last.
load_settings() {
    local nodes=${TENURE_NODES:-} base_port=${TENURE_BASE_PORT:-}
    STARTED_BIN=
    FAULTS=${TENURE_FAULTS:-}
    if [[ -f $SETTINGS ]]; then
        NODES=$(sed -n 's/^nodes=//p' "$SETTINGS")
        BASE_PORT=$(sed -n 's/^base_port=//p' "$SETTINGS")
        FAULTS=$(sed -n 's/^faults=//p' "$SETTINGS")
        STARTED_BIN=$(sed -n 's/^server=//p' "$SETTINGS")
        [[ -z $nodes || $nodes == "$NODES" ]] ||
            die "$CLUSTER_DIR holds a cluster of $NODES nodes, TENURE_NODES says $nodes; 'make clean-cluster' removes the old one"
        [[ -z $base_port || $base_port == "$BASE_PORT" ]] ||
            die "$CLUSTER_DIR holds a cluster on base port $BASE_PORT, TENURE_BASE_PORT says $base_port; 'make clean-cluster' removes the old one"
    else
        NODES=${nodes:-3}
        BASE_PORT=${base_port:-2379}
    fi
    [[ $NODES =~ ^[1-9]$ ]] || die "TENURE_NODES must be 1 to 9, not '$NODES'"
    [[ $BASE_PORT =~ ^[0-9]{4,5}$ && $BASE_PORT -ge 1024 && $BASE_PORT -le 60000 ]] ||
        die "TENURE_BASE_PORT must be 1024 to 60000, not '$BASE_PORT'"
}

require_cluster() {
    [[ -f $SETTINGS ]] || die "no cluster in $CLUSTER_DIR; 'make cluster' starts one"
    load_settings
}

# 2379, 22379, 32379, 42379, 52379, 12379 for the first six nodes from the default base port; the next six are 10 higher.
# Taken modulo the port range so that any base port gives valid, distinct ports.
client_port() {
    local index=$1 lanes=(0 2 3 4 5 1)
    local shift=$((lanes[(index - 1) % 6] * 10000 + (index - 1) / 6 * 10))
    echo $((1024 + (BASE_PORT - 1024 + shift) % 60000))
}

peer_port() { echo $(($(client_port "$1") + 1)); }
fault_url() { echo "http://127.0.0.1:$(($(client_port "$1") + 2))"; }
client_url() { echo "http://127.0.0.1:$(client_port "$1")"; }
peer_url() { echo "http://127.0.0.1:$(peer_port "$1")"; }
node_dir() { echo "$CLUSTER_DIR/n$1"; }

# "2" and "n2" both name the second node.
node_index() {
    local index=${1#n}
    [[ $index =~ ^[0-9]+$ && $index -ge 1 && $index -le $NODES ]] || die "no node '$1': this cluster has n1 to n$NODES"
    echo "$index"
}

all_endpoints() {
    local index list=()
    for index in $(seq "$NODES"); do list+=("127.0.0.1:$(client_port "$index")"); done
    (IFS=, && echo "${list[*]}")
}

# The id of the node's process: the one that runs with its data directory, whatever the pid file says; fails if none does.
node_pid() {
    local found
    # In one word with its option, so that grep does not find itself. Processes that end meanwhile are no error.
    found=$(grep -lszxF -e"--data-dir=$(node_dir "$1")/data" /proc/[0-9]*/cmdline) || true
    [[ -n $found ]] || return 1
    found=${found%%$'\n'*} found=${found#/proc/}
    echo "${found%/cmdline}"
}

# running, paused or stopped.
node_state() {
    local pid
    pid=$(node_pid "$1") || {
        echo stopped
        return
    }
    case "$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null)" in
    T) echo paused ;;
    Z | X | '') echo stopped ;;
    *) echo running ;;
    esac
}

signal_node() {
    local pid
    pid=$(node_pid "$2") || die "n$2 is not running"
    kill "-$1" "$pid"
}

# Waits until the node's process is gone, at most $2 seconds.
wait_gone() {
    local deadline=$((SECONDS + $2))
    while [[ $(node_state "$1") != stopped ]]; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

# The server to start: as the environment says, else as the cluster was started before, else where `make build` puts it.
server_binary() {
    if [[ -z ${TENURED_BIN:-}${TENURED_FAULTS_BIN:-}${CARGO_TARGET_DIR:-} && -x $STARTED_BIN ]]; then
        echo "$STARTED_BIN"
        return
    fi
    local bin=${TENURED_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release/tenured}
    if [[ -n $FAULTS ]]; then
        bin=${TENURED_FAULTS_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/faults/tenured}
        [[ -x $bin ]] || die "no server binary at $bin; 'make build-faults' makes it, or set TENURED_FAULTS_BIN"
    fi
    [[ -x $bin ]] || die "no server binary at $bin; 'make build' makes it, or set TENURED_BIN"
    realpath "$bin"
}

# tenurectl for this cluster, so that it works when pasted where this script was called; fails if it is not built.
command_line() {
    local bin=${TENURECTL_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release/tenurectl}
    [[ -x $bin ]] || return 1
    bin=$(realpath --relative-base="$PWD" "$bin")
    [[ $bin == */* ]] || bin=./$bin
    bin=$(printf %q "$bin")
    # What it tries by itself need not be told.
    [[ $(all_endpoints) == 127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 ]] || bin+=" --endpoints=$(all_endpoints)"
    echo "$bin"
}

# Starts node $1 with binary $2 unless it runs. The log keeps growing over runs; `log.start` marks where this run begins.
launch_node() {
    local index=$1 bin=$2 dir peers=() other faults=()
    [[ -z $FAULTS ]] || faults=("--experimental-fault-injection-url=$(fault_url "$index")")
    [[ $(node_state "$index") == stopped ]] || return 0
    dir=$(node_dir "$index")
    mkdir -p "$dir" "$dir/data"
    chmod 700 "$dir/data"
    touch "$dir/log"
    stat -c %s "$dir/log" >"$dir/log.start"
    for other in $(seq "$NODES"); do peers+=("n$other=$(peer_url "$other")"); done
    # Its own session, so that Ctrl-C in the terminal that started it does not reach it.
    setsid "$bin" "--name=n$index" "--data-dir=$dir/data" \
        "--listen-client-urls=$(client_url "$index")" "--advertise-client-urls=$(client_url "$index")" \
        "--listen-peer-urls=$(peer_url "$index")" "--initial-advertise-peer-urls=$(peer_url "$index")" \
        "--initial-cluster=$(IFS=, && echo "${peers[*]}")" \
        "--initial-cluster-token=tenure-$BASE_PORT" --initial-cluster-state=new "${faults[@]}" \
        </dev/null >>"$dir/log" 2>&1 &
    local pid=$!
    echo "$pid" >"$dir/pid"
    # Only so that bash says nothing when it is killed. There may be nothing to disown when a signal has just come.
    disown "$pid" 2>/dev/null || true
    # Until it has executed the server it is a copy of this script, which node_state would call stopped.
    until node_pid "$index" >/dev/null || [[ ! -e /proc/$pid ]]; do sleep 0.01; done
}

log_of_this_run() {
    local dir
    dir=$(node_dir "$1")
    tail -c "+$(($(cat "$dir/log.start" 2>/dev/null || echo 0) + 1))" "$dir/log" 2>/dev/null
}

# Whether node $1 says that it is healthy. Not by a pipe: grep ends at the first match, which a longer text would fail of.
is_healthy() {
    grep -q '"health" *: *"true"' < <(curl -fsS --max-time 2 "$(client_url "$1")/health" 2>/dev/null)
}

is_serving() {
    grep -q 'ready to serve client requests' < <(log_of_this_run "$1") && is_healthy "$1"
}

fail_with_log() {
    echo "$(basename "$0"): n$1 $2; the last lines of $(node_dir "$1")/log:" >&2
    log_of_this_run "$1" | tail -n 15 | sed 's/^/    /' >&2
    exit 1
}

# Waits until every node named has a leader and answers; says which one does not, and why.
wait_serving() {
    local index deadline=$((SECONDS + START_TIMEOUT_SECS))
    for index in "$@"; do
        until is_serving "$index"; do
            [[ $(node_state "$index") != stopped ]] || fail_with_log "$index" "died while starting"
            ((SECONDS < deadline)) || fail_with_log "$index" "does not serve after $START_TIMEOUT_SECS s"
            sleep 0.1
        done
    done
}

# Sends node $1's port for faults a request: method, path and, if there is one, a body.
ask_faults() {
    local index=$1 method=$2 path=$3 body=${4:-}
    curl -fsS --max-time 5 -X "$method" --data "$body" "$(fault_url "$index")/$path" ||
        die "n$index takes no faults; 'make stop' and 'make cluster FAULTS=1' start a cluster that does"
}

# SIGTERM to the nodes named, SIGKILL to those that are still there at the deadline.
stop_nodes() {
    local index pid
    for index in "$@"; do
        pid=$(node_pid "$index") || continue
        kill -TERM "$pid"
        kill -CONT "$pid" # A paused process cannot act on SIGTERM.
    done
    for index in "$@"; do
        wait_gone "$index" "$STOP_TIMEOUT_SECS" && continue
        echo "$(basename "$0"): n$index ignores SIGTERM for $STOP_TIMEOUT_SECS s, killing it" >&2
        signal_node KILL "$index"
        wait_gone "$index" 5 || die "n$index survives SIGKILL"
    done
    for index in "$@"; do rm -f "$(node_dir "$index")/pid"; done
}
