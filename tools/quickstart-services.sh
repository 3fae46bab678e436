# What ./quickstart checks, builds, starts and removes. Sourced by it, never run.
#
# Every file lies below $prefix, which carries a marker file; nothing without that marker is ever removed. Services
# are known by their pid files below $prefix/run and stopped by those ids alone.

marker=.made-by-shifter-quickstart
gateway_account=shifter-qs-gateway
guest_account=shifter-qs-user

# The nearest directory at or above the prefix that exists.
existing_parent() {
    local path=$prefix
    while [ ! -d "$path" ]; do path=$(dirname "$path"); done
    printf '%s\n' "$path"
}

refuse_unfit_prefix() {
    local parent path options free
    if [ -e "$prefix" ] && [ ! -e "$prefix/$marker" ] && [ -n "$(ls -A "$prefix" 2>/dev/null || echo file)" ]; then
        fail "$prefix exists and was not made by this script: choose another with --prefix"
    fi
    parent=$(existing_parent)
    path=$parent
    while :; do
        # Whoever may write above the programs may replace them, and shifter refuses a configuration there.
        if [ "$(stat -L -c %u "$path")" != 0 ] || [ $((0$(stat -L -c %a "$path") & 022)) -ne 0 ]; then
            fail "$path can be written by others than root, so no setuid program may lie below it: choose another place with --prefix"
        fi
        [ "$path" != / ] || break
        path=$(dirname "$path")
    done
    options=$(findmnt -n -o OPTIONS --target "$parent" | head -n 1)
    case ",$options," in
        *,nosuid,*) fail "$parent is on a file system mounted nosuid, where no setuid program works: choose another place with --prefix" ;;
        *,noexec,*) fail "$parent is on a file system mounted noexec, where no program runs: choose another place with --prefix" ;;
    esac
    free=$(df -Pm "$parent" | awk 'NR == 2 {print $4}')
    [ "$free" -ge 3000 ] || [ -d "$prefix/build" ] ||
        fail "$parent has $free MB free, and the build takes up to 3000: choose another place with --prefix"
}

refuse_without_mounts() {
    local scratch
    scratch=$(mktemp -d)
    if ! unshare --mount --propagation private mount -t tmpfs tmpfs "$scratch" 2>/dev/null; then
        rmdir "$scratch"
        fail "even root may not mount here (a container without CAP_SYS_ADMIN?), and Shifter cannot work without mounts"
    fi
    rmdir "$scratch"
    [ -e /dev/loop-control ] || load_module loop || true
    [ -c /dev/loop-control ] ||
        fail "there is no /dev/loop-control, so images cannot be mounted: load the loop module, or give this container the loop devices"
    grep -qw squashfs /proc/filesystems || load_module squashfs || true
    grep -qw squashfs /proc/filesystems ||
        fail "this kernel knows no squashfs, in which images are kept: load or build the squashfs module"
}

load_module() {
    command -v modprobe >/dev/null && quietly modprobe "$1"
}

build() {
    local static
    export SHIFTER_SYSCONFDIR=$prefix/etc CARGO_TARGET_DIR=$prefix/build
    static="$(rust_processor)-unknown-linux-musl"
    if add_target "$static"; then
        cargo build --locked --package shifter --bin shifter --profile privileged --target "$static"
        setuid_program=$prefix/build/$static/privileged/shifter
    else
        note "the target $static cannot be had here: shifter is built against the C library, and starts slower"
        cargo build --locked --package shifter --bin shifter --profile privileged
        setuid_program=$prefix/build/privileged/shifter
    fi
    # Half-way between a quick build and quick programs.
    CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=false \
        cargo build --locked --package shifterimg --package shifter-imagegw
}

install_programs() {
    mkdir -p "$prefix/bin" "$prefix/sbin" "$prefix/etc/files" "$prefix/log" "$prefix/run" "$prefix/udi" "$prefix/loop"
    install -o root -g root -m 4755 "$setuid_program" "$prefix/bin/shifter"
    install -o root -g root -m 0755 "$prefix/build/debug/shifterimg" "$prefix/bin/shifterimg"
    install -o root -g root -m 0755 "$prefix/build/debug/shifter-imagegw" "$prefix/sbin/shifter-imagegw"
}

# The gateway's own account, and, where root itself called, an ordinary user. Both are noted for --clean.
make_accounts() {
    make_account "$gateway_account" --system --no-create-home --home-dir /nonexistent
    user_name=${SUDO_USER:-root}
    if [ "$user_name" = root ]; then
        note "called by root, who may not run containers: the temporary account $guest_account does it"
        make_account "$guest_account" --create-home --home-dir "$prefix/home" --shell /bin/sh
        user_name=$guest_account
    fi
    local owned
    for owned in images var var/cache var/expand; do
        install -d -o "$gateway_account" -g "$gateway_account" -m 0755 "$prefix/$owned"
    done
}

make_account() {
    local name=$1
    shift
    if ! getent passwd "$name" >/dev/null; then
        useradd --user-group "$@" "$name"
        printf '%s\n' "$name" >>"$prefix/accounts"
    fi
}

# The node state that containers leave until the next boot goes with --clean, unless another Shifter had it before.
note_node_state() {
    [ -d /run/shifter ] || touch "$prefix/made-run-shifter"
}

# Runs a program as the ordinary user, from a directory that every container has.
as_user() {
    (cd / && setpriv --reuid "$user_name" --regid "$(id -g "$user_name")" --init-groups \
        env -i "PATH=$prefix/bin:/usr/local/bin:/usr/bin:/bin" "HOME=$(getent passwd "$user_name" | cut -d: -f6)" \
        "USER=$user_name" "TERM=${TERM:-dumb}" "LANG=${LANG:-C.UTF-8}" "$@")
}

# The first port at or above $1 on which nothing listens (proc(5), /proc/net/tcp: state 0A).
free_port() {
    local port=$1
    while awk '$4 == "0A" {split($2, at, ":"); print at[length(at)]}' /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        grep -qix "$(printf '%04X' "$port")"; do
        port=$((port + 1))
    done
    printf '%s\n' "$port"
}

write_configuration() {
    local site_fs=''
    gateway_port=$(free_port 5000)
    registry_port=$(free_port $((gateway_port + 1)))
    [ "$gateway_port" = 5000 ] || note "port 5000 is taken: the gateway listens on $gateway_port"
    [ ! -d /home ] || site_fs="siteFs=/home:/home"
    cat >"$prefix/etc/udiRoot.conf" <<CONF
# Written by ./quickstart at every run.
udiMount=$prefix/udi
loopMount=$prefix/loop
imagePath=$prefix/images
udiRootPath=$prefix
etcPath=$prefix/etc/files
rootfsType=tmpfs
populateEtcDynamically=1
allowLibcPwdCalls=1
maxGroupCount=31
siteEnv=SHIFTER_RUNTIME=1
$site_fs
imageGateway=http://127.0.0.1:$gateway_port
gatewayTimeout=60
system=quickstart
defaultImageType=docker
CONF
    cat >"$prefix/etc/imagemanager.json" <<CONF
{
  "DatabaseURI": "sqlite://$prefix/var/images.db",
  "CacheDirectory": "$prefix/var/cache",
  "ExpandDirectory": "$prefix/var/expand",
  "DefaultImageLocation": "docker.io",
  "DefaultImageFormat": "squashfs",
  "ImageExpirationTimeout": "90:00:00:00",
  "PullUpdateTimeout": 60,
  "WorkerThreads": 2,
  "LogLevel": "info",
  "Locations": {
    "docker.io": {"remotetype": "dockerv2", "url": "https://registry-1.docker.io"},
    "fixture": {"remotetype": "dockerv2", "url": "http://127.0.0.1:$registry_port"}
  },
  "Platforms": {
    "quickstart": {
      "mungeSocketPath": "$munge_socket",
      "accesstype": "local",
      "admins": ["root"],
      "local": {"imageDir": "$prefix/images"}
    }
  }
}
CONF
}

# The socket that libmunge uses unless told otherwise (munge(7)); clients and gateway must agree on it.
munge_socket=/run/munge/munge.socket.2

munge_answers() {
    munge -n 2>/dev/null | unmunge >/dev/null 2>&1
}

start_munged() {
    local owner
    if munge_answers; then
        note "munged is running already: it is used"
        return 0
    fi
    owner=$(getent passwd munge >/dev/null && echo munge || echo root)
    [ -d /run/munge ] || touch "$prefix/made-run-munge"
    install -d -o "$owner" -m 0755 /run/munge
    install -d -o "$owner" -m 0700 "$prefix/munge"
    if [ ! -e "$prefix/munge/key" ]; then
        (umask 077 && head -c 1024 /dev/urandom >"$prefix/munge/key")
        chown "$owner" "$prefix/munge/key"
    fi
    start_service munged "$owner" munged --foreground "--key-file=$prefix/munge/key" "--socket=$munge_socket" \
        "--pid-file=$prefix/munge/pid" "--seed-file=$prefix/munge/seed" "--log-file=$prefix/munge/log"
    wait_for munged munge_answers
}

gateway_answers() {
    curl -fsS --noproxy '*' -o /dev/null --max-time 2 "http://127.0.0.1:$gateway_port/" 2>/dev/null
}

start_gateway() {
    start_service gateway "$gateway_account" "$prefix/sbin/shifter-imagegw" serve \
        --config "$prefix/etc/imagemanager.json" --listen "127.0.0.1:$gateway_port"
    wait_for gateway gateway_answers
    note "the gateway listens on 127.0.0.1:$gateway_port; its log is $prefix/log/gateway"
}

registry_answers() {
    local status
    # 401 is how a registry that wants a token says that it is there.
    status=$(curl -sS -o /dev/null --max-time 10 -w '%{http_code}' "$default_registry" 2>/dev/null) || return 1
    [ "$status" = 200 ] || [ "$status" = 401 ]
}

fixture_answers() {
    curl -fsS --noproxy '*' -o /dev/null --max-time 2 "http://127.0.0.1:$registry_port/v2/" 2>/dev/null
}

build_registry() {
    install_packages <<'PACKAGES' || note "without a static busybox the image holds the machine's sh, cat, id and their libraries"
busybox busybox-static busybox programs for the image
PACKAGES
    (cd "$repository/tests" && CARGO_TARGET_DIR=$prefix/build/tests CARGO_PROFILE_DEV_DEBUG=false \
        cargo build --locked --bin shifter-fixture)
}

start_registry() {
    install -o root -g root -m 0755 "$prefix/build/tests/debug/shifter-fixture" "$prefix/sbin/shifter-fixture"
    start_service registry "$gateway_account" "$prefix/sbin/shifter-fixture" serve busybox \
        --listen "127.0.0.1:$registry_port"
    wait_for registry fixture_answers
}

# The pull as the ordinary user; what it printed is kept for looking at the reason of a failure.
pull() {
    as_user "$prefix/bin/shifterimg" pull "docker:$image" 2>&1 | tee "$prefix/log/pull"
}

# start_service NAME ACCOUNT WORDS…: in the background, with a log and a pid file.
start_service() {
    local name=$1 account=$2
    shift 2
    (
        cd /
        exec setsid setpriv --reuid "$account" --regid "$(id -g "$account")" --clear-groups \
            env -i "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "${proxies[@]}" "$@" \
            >"$prefix/log/$name" 2>&1 </dev/null
    ) &
    printf '%s\n' $! >"$prefix/run/$name.pid"
    started+=("$name")
    disown
}

# The gateway goes to registries as its caller's environment would.
proxies=()
for proxy in http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY; do
    [ -z "${!proxy+set}" ] || proxies+=("$proxy=${!proxy}")
done
started=()

# wait_for NAME CHECK: until CHECK succeeds, at most 20 seconds.
wait_for() {
    local tries=0
    until "$2"; do
        tries=$((tries + 1))
        # In its first moments a service has not opened its log yet, and looks as if it had ended.
        if [ $tries -gt 100 ] || { [ $tries -gt 10 ] && ! service_runs "$1"; }; then
            tail -n 20 "$prefix/log/$1" >&2
            fail "$1 did not start; the end of its log ($prefix/log/$1) is above"
        fi
        sleep 0.2
    done
}

# A pid is ours only while its process still has the log open: numbers are used again.
service_runs() {
    local pid
    pid=$(cat "$prefix/run/$1.pid" 2>/dev/null) || return 1
    [ "$(readlink "/proc/$pid/fd/1" 2>/dev/null)" = "$prefix/log/$1" ]
}

stop_services() {
    local file name pid tries
    for file in "$prefix"/run/*.pid; do
        [ -e "$file" ] || continue
        name=$(basename "$file" .pid)
        pid=$(cat "$file")
        if service_runs "$name"; then
            kill "$pid" 2>/dev/null || true
            tries=0
            while service_runs "$name"; do
                tries=$((tries + 1))
                [ $tries -ne 50 ] || kill -KILL "$pid" 2>/dev/null || true
                [ $tries -lt 100 ] || fail "process $pid ($name) cannot be stopped"
                sleep 0.1
            done
        fi
        rm -f "$file"
    done
}

# Success without --keep, and every failure, leave no service behind; what was built stays for the next run.
on_exit() {
    trap - EXIT
    release_services
    give_back "${caller_cargo:-}" "${RUSTUP_HOME:-}"
    if [ "$keep" = no ] || [ "$1" -ne 0 ]; then
        stop_services
    fi
    if [ "$1" -ne 0 ] && [ -e "$prefix/$marker" ]; then
        note "nothing is left running; $prefix stays for the next try, and ./quickstart --clean removes it" >&2
    fi
    exit "$1"
}

clean_up() {
    local target name
    if [ ! -e "$prefix" ]; then
        note "there is nothing at $prefix"
        return 0
    fi
    [ -e "$prefix/$marker" ] || fail "$prefix was not made by this script and is left alone"
    stop_services
    # Innermost mounts first.
    findmnt -rn -o TARGET | awk -v below="$prefix/" 'index($0 "/", below) == 1' | sort -r |
        while read -r target; do umount "$target"; done
    if [ -e "$prefix/accounts" ]; then
        while read -r name; do
            case $name in
                "$gateway_account" | "$guest_account") quietly userdel "$name" && note "removed the account $name" ;;
            esac
        done <"$prefix/accounts"
    fi
    [ ! -e "$prefix/made-run-munge" ] || rmdir /run/munge 2>/dev/null || true
    [ ! -e "$prefix/made-run-shifter" ] || rm -rf --one-file-system /run/shifter
    rm -rf --one-file-system "$prefix"
    note "removed $prefix; packages that were installed stay"
}
