#!/bin/sh
# Installs ExfilGuard on one machine of a small installation, as systemd services. Run it again after every change: what is right already
# is left alone. What it would do: --dry-run.
#
#   deploy/install.sh --wheel exfilguard-0.1.0-*.whl --parts "sidecar exporter"              on the database's machine
#   deploy/install.sh --wheel exfilguard-0.1.0-*.whl --parts "detector responder archive exporter console"    on the other one
#   deploy/install.sh --uninstall [--purge]        --purge also removes settings, data and the user
#
# Options: --wheel FILE    the package, built by `pip wheel --no-deps .`; its dependencies come from the configured index
#          --parts "…"     what runs here; without it nothing is started
#          --extras "…"    optional parts of the package: hooks ldap
#          --no-packages   leave /opt/exfilguard alone: another tool looks after it
#          --dry-run       say what would be done, and do nothing
# DESTDIR=/some/root installs into that directory instead, without a user and without touching systemd: for building images, and for tests.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
wheel='' parts='' extras='' packages=yes dry='' action=install purge=''

fail() { echo "error: $1" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case $1 in
    --wheel) [ $# -gt 1 ] || fail "--wheel needs a file"; wheel=$2; shift ;;
    --parts) [ $# -gt 1 ] || fail "--parts needs a list"; parts=$2; shift ;;
    --extras) [ $# -gt 1 ] || fail "--extras needs a list"; extras=$2; shift ;;
    --no-packages) packages='' ;;
    --dry-run) dry=yes ;;
    --uninstall) action=uninstall ;;
    --purge) purge=yes ;;
    -h|--help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) fail "$1 is no option; see --help" ;;
  esac
  shift
done

for part in $parts; do
  case $part in
    sidecar|detector|responder|archive|exporter|console) ;;
    *) fail "$part is no part: sidecar, detector, responder, archive, exporter, console" ;;
  esac
done
[ -z "$purge" ] || [ "$action" = uninstall ] || fail "--purge belongs to --uninstall"
[ -n "$root" ] || [ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "must be root (or use --dry-run, or DESTDIR=)"

prefix=$root/opt/exfilguard etc=$root/etc/exfilguard var=$root/var/lib/exfilguard units=$root/etc/systemd/system
live=''; [ -n "$root" ] || live=yes

run() { if [ -n "$dry" ]; then echo "would: $*"; else echo "+ $*"; "$@"; fi; }

# A directory with its mode and, on a live system, its owner.
directory() { # path mode owner
  if [ -d "$1" ] && [ "$(stat -c %a "$1")" = "$2" ] && { [ -z "$live" ] || [ "$(stat -c %U:%G "$1")" = "$3" ]; }; then return; fi
  if [ -n "$live" ]; then run install -d -m "$2" -o "${3%:*}" -g "${3#*:}" "$1"; else run install -d -m "$2" "$1"; fi
}

# A file that belongs to us: replaced when it differs.
file() { # source target mode owner
  if cmp -s "$1" "$2" && [ "$(stat -c %a "$2")" = "$3" ]; then return; fi
  if [ -n "$live" ]; then run install -m "$3" -o "${4%:*}" -g "${4#*:}" "$1" "$2"; else run install -m "$3" "$1" "$2"; fi
}

install_all() {
  if [ -n "$live" ] && ! getent passwd exfilguard >/dev/null; then
    run useradd --system --user-group --home-dir /var/lib/exfilguard --shell /usr/sbin/nologin exfilguard
  fi
  for path in "$root/opt" "$root/etc" "$root/etc/systemd" "$units" "$root/var" "$root/var/lib"; do
    [ -d "$path" ] || directory "$path" 755 root:root
  done
  directory "$etc" 750 root:exfilguard
  directory "$var" 700 exfilguard:exfilguard
  if [ -n "$packages" ]; then
    [ -n "$wheel" ] || [ -x "$prefix/bin/exfilguard" ] || fail "--wheel FILE is needed the first time"
    [ -x "$prefix/bin/python" ] || run python3 -m venv "$prefix"
    if [ -n "$wheel" ]; then
      [ -f "$wheel" ] || fail "$wheel: no such file"
      sum=$(sha256sum "$wheel" | cut -d' ' -f1)
      if [ "$(cat "$prefix/.installed" 2>/dev/null || true)" != "$sum $extras" ]; then
        with=''; [ -z "$extras" ] || with="[$(echo "$extras" | tr ' ' ',')]"
        run "$prefix/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheel"
        run "$prefix/bin/pip" install --quiet --disable-pip-version-check "$wheel$with"
        [ -n "$dry" ] || echo "$sum $extras" > "$prefix/.installed"
      fi
    fi
  fi
  # Settings are the operator's: written once, never replaced.
  [ -f "$etc/exfilguard.toml" ] || file "$here/exfilguard.example.toml" "$etc/exfilguard.toml" 640 root:exfilguard
  for unit in exfilguard@.service exfilguard-drill.service exfilguard-drill.timer; do
    file "$here/systemd/$unit" "$units/$unit" 644 root:root
  done
  directory "$units/exfilguard@sidecar.service.d" 755 root:root
  file "$here/systemd/exfilguard@sidecar.service.d/reload.conf" "$units/exfilguard@sidecar.service.d/reload.conf" 644 root:root
  [ -n "$live" ] || return 0
  run systemctl daemon-reload
  [ -n "$parts" ] || { echo "installed; edit /etc/exfilguard/exfilguard.toml, then run this again with --parts"; return 0; }
  # Nothing is started on settings with a mistake in them. As its user: it must be able to read its secrets.
  if [ -z "$dry" ]; then
    runuser -u exfilguard -- "$prefix/bin/exfilguard" check-config "$etc/exfilguard.toml" ||
      fail "the settings were not accepted (above): nothing was started; correct them and run this again"
  fi
  for part in $parts; do run systemctl enable "exfilguard@$part.service"; run systemctl restart "exfilguard@$part.service"; done
}

uninstall_all() {
  if [ -n "$live" ]; then
    for part in sidecar detector responder archive exporter console; do
      ! systemctl list-unit-files "exfilguard@.service" >/dev/null 2>&1 || run systemctl disable --now "exfilguard@$part.service"
    done
  fi
  [ -z "$live" ] || [ ! -e "$units/exfilguard-drill.timer" ] || run systemctl disable --now exfilguard-drill.timer
  for unit in exfilguard@.service exfilguard-drill.service exfilguard-drill.timer; do
    [ ! -e "$units/$unit" ] || run rm "$units/$unit"
  done
  [ ! -e "$units/exfilguard@sidecar.service.d" ] || run rm -r "$units/exfilguard@sidecar.service.d"
  [ ! -e "$prefix" ] || [ -z "$packages" ] || run rm -rf "$prefix"
  [ -z "$live" ] || run systemctl daemon-reload
  if [ -n "$purge" ]; then
    [ ! -e "$etc" ] || run rm -rf "$etc"
    [ ! -e "$var" ] || run rm -rf "$var"
    if [ -n "$live" ] && getent passwd exfilguard >/dev/null; then run userdel exfilguard; fi
  else
    echo "kept: $etc and $var (settings, keys, events not yet published); --purge removes them"
  fi
}

"${action}_all"
