# Shared by ./test and ./quickstart: messages, root, packages and a Rust toolchain. Sourced, never run.
#
# It installs only what is missing, says what it does, and starts no service. What it cannot do it says in one
# sentence; whether that matters is the caller's decision.

began=$SECONDS

# A step's headline, with the time since the start.
say() {
    printf '\n== [%02d:%02d] %s\n' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)) "$*"
}

note() {
    printf '   %s\n' "$*"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# version_at_least 1.95.0 1.63: whether the first is not older than the second.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

# become_root WORDS…: returns as root, or runs WORDS through sudo and does not return. Proxies survive, and so does
# the caller's Rust, which sudo's own search path would hide.
become_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || fail "mounting and setuid programs need root: run this as root, or install sudo"
    local kept=("PATH=$PATH") name
    for name in http_proxy https_proxy ftp_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY \
        RUSTUP_DIST_SERVER RUSTUP_UPDATE_ROOT RUSTUP_TOOLCHAIN CARGO_TARGET_DIR SSL_CERT_FILE SSL_CERT_DIR; do
        [ -z "${!name+set}" ] || kept+=("$name=${!name}")
    done
    kept+=("CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}")
    note "root is needed from here on: going on through sudo"
    exec sudo -- env "${kept[@]}" "$@"
}

# give_back PATH…: files that a run through sudo made root's go back to the caller.
give_back() {
    [ -n "${SUDO_UID:-}" ] || return 0
    local path
    for path in "$@"; do
        [ ! -e "$path" ] || find "$path" -xdev -user 0 -exec chown -h "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" {} + || true
    done
}

# Whether one of `a|b|c` is there: commands by name, files by absolute path.
have_any() {
    local candidate
    local IFS='|'
    for candidate in $1; do
        case $candidate in
            /*) [ ! -e "$candidate" ] || return 0 ;;
            *) ! command -v "$candidate" >/dev/null || return 0 ;;
        esac
    done
    return 1
}

# install_packages: reads lines `WHAT APT DNF PURPOSE…` and installs the packages whose WHAT is missing; `-` where a
# family has no such package. Prints what it could not install, and returns 1 if there was any.
install_packages() {
    local wanted=() purposes=() what apt dnf purpose family='' package missing=0 index
    if command -v apt-get >/dev/null; then family=apt; elif command -v dnf >/dev/null; then family=dnf; fi
    while read -r what apt dnf purpose; do
        [ -n "$what" ] && ! have_any "$what" || continue
        case $family in apt) package=$apt ;; dnf) package=$dnf ;; *) package=- ;; esac
        if [ "$package" = - ]; then
            note "not installed: ${what%%|*} ($purpose): this system has no package of it that we know"
            missing=1
        else
            wanted+=("$package")
            purposes+=("$purpose")
        fi
    done
    [ ${#wanted[@]} -gt 0 ] || return "$missing"
    note "installing: ${wanted[*]}"
    hold_services
    [ "$family" != apt ] || quietly apt-get -q update || note "apt-get update failed; trying with the lists at hand"
    if ! install_with "$family" "${wanted[@]}"; then
        # One bad name spoils the whole command: try each alone, to say which.
        for index in "${!wanted[@]}"; do
            if ! install_with "$family" "${wanted[index]}"; then
                note "could not install ${wanted[index]} (${purposes[index]})"
                missing=1
            fi
        done
    fi
    release_services
    return "$missing"
}

install_with() {
    local family=$1
    shift
    case $family in
        apt) DEBIAN_FRONTEND=noninteractive quietly apt-get -q -y --no-install-recommends install "$@" ;;
        dnf) quietly dnf -q -y --setopt=install_weak_deps=False install "$@" ;;
    esac
}

# Runs a command; its output is shown only if it fails.
quietly() {
    local output
    if ! output=$("$@" 2>&1 </dev/null); then
        printf '%s\n' "$output" | tail -n 20
        return 1
    fi
}

# Debian starts a daemon when its package is installed, unless /usr/sbin/policy-rc.d forbids it (policy-rc.d(8)).
held_policy=/usr/sbin/policy-rc.d
held_here=no

hold_services() {
    if command -v apt-get >/dev/null && [ ! -e $held_policy ] && printf '#!/bin/sh\nexit 101\n' >$held_policy; then
        chmod 0755 $held_policy
        held_here=yes
    fi
}

release_services() {
    [ $held_here = no ] || rm -f $held_policy
    held_here=no
}

# The compiler that rust-toolchain.toml names.
wanted_rust() {
    sed -n 's/^channel *= *"\([0-9.]*\)".*/\1/p' "$repository/rust-toolchain.toml"
}

# The processor as Rust's target names spell it.
rust_processor() {
    case $(uname -m) in ppc64le) echo powerpc64le ;; *) uname -m ;; esac
}

# find_rust DIRECTORY [COMPONENT…]: puts a new enough cargo on the PATH: the one that is there, by rustup if that is
# there, or by a rustup of our own in DIRECTORY.
find_rust() {
    local directory=$1 want have component
    shift
    want=$(wanted_rust)
    PATH="$directory/cargo/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if [ -x "$directory/cargo/bin/rustup" ]; then
        export RUSTUP_HOME="$directory/rustup" CARGO_HOME="$directory/cargo"
    fi
    if command -v rustup >/dev/null; then
        if rustup run "$want" cargo --version >/dev/null 2>&1; then
            export RUSTUP_TOOLCHAIN=$want
            for component in "$@"; do
                rustup component list --toolchain "$want" --installed 2>/dev/null | grep -q "^$component" ||
                    quietly rustup component add --toolchain "$want" "$component" || return 1
            done
            note "Rust $want (by rustup)"
            return 0
        fi
        note "Rust $want is missing: rustup installs it"
        if quietly rustup toolchain install "$want" --profile minimal "${@/#/--component=}"; then
            export RUSTUP_TOOLCHAIN=$want
            return 0
        fi
        # A newer toolchain that is already here does as well.
        have=$(RUSTUP_TOOLCHAIN=stable cargo --version 2>/dev/null | cut -d' ' -f2) || have=0
        if version_at_least "${have:-0}" "$want"; then
            export RUSTUP_TOOLCHAIN=stable
            note "rustup could not install it; Rust $have is here and new enough"
            return 0
        fi
    elif command -v cargo >/dev/null; then
        have=$(cargo --version | cut -d' ' -f2)
        if version_at_least "$have" "$want"; then
            note "Rust $have (the system's)"
            return 0
        fi
        note "cargo is $have, and $want is needed"
    else
        note "there is no cargo on this machine"
    fi
    fetch_rust "$directory" "$want" "$@"
}

# Fetches rustup's installer, checks it against the sum published beside it, and installs into DIRECTORY alone.
fetch_rust() {
    local directory=$1 want=$2 source sum
    shift 2
    source="${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}/dist/$(rust_processor)-unknown-linux-gnu"
    note "fetching rustup and Rust $want into $directory (about 250 MB)"
    mkdir -p "$directory"
    curl -fsSL --retry 3 -o "$directory/rustup-init" "$source/rustup-init" || return 1
    sum=$(curl -fsSL --retry 3 "$source/rustup-init.sha256" | cut -d' ' -f1) || return 1
    printf '%s  %s\n' "$sum" "$directory/rustup-init" | sha256sum --check --status || {
        note "rustup's installer does not match its published sum"
        return 1
    }
    chmod 0755 "$directory/rustup-init"
    export RUSTUP_HOME="$directory/rustup" CARGO_HOME="$directory/cargo"
    quietly "$directory/rustup-init" -y --no-modify-path --profile minimal --default-toolchain "$want" \
        "${@/#/--component=}" || return 1
    rm -f "$directory/rustup-init"
    export RUSTUP_TOOLCHAIN=$want
}

# add_target TRIPLE: whether the standard library for that target is, or could be, installed.
add_target() {
    command -v rustup >/dev/null || return 1
    rustup target list --installed 2>/dev/null | grep -qx "$1" || quietly rustup target add "$1"
}
