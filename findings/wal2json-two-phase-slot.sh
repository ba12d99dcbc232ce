#!/usr/bin/env bash
# PostgreSQL 15.20 with wal2json 2.5: a slot takes two_phase, shows it, and never sends a prepared transaction
#
# Seen with PostgreSQL 15.20 and wal2json 2.5 (Debian bookworm); the same with 17.12 and wal2json 2.6, 18.6 and 2.7.
#
# A slot of wal2json, which has no callbacks for two-phase commit, can be made with two_phase = true, and
# pg_replication_slots shows two_phase = t for it. test_decoding on such a slot sends a transaction at PREPARE; wal2json
# sends the same one whole at COMMIT PREPARED, after changes of others that were committed later than it was prepared.
# So pg_replication_slots.two_phase says what was asked for, not what the plugin does, and nothing else tells:
# no error, no notice. A consumer that waits for prepared transactions waits for ever.
#
# Wrong guess: making the slot raises, or the slot shows two_phase = f.
set -euo pipefail

suite=bookworm
major=15
packages=(postgresql-15=15.20-0+deb12u1 postgresql-15-wal2json=2.5-1+b1)
settings="wal_level = logical
max_prepared_transactions = 2
output_plugin_libraries = 'pgoutput, test_decoding, wal2json'"
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

sql >"$dir/seen" <<'END'
create table entry (id int primary key);
select pg_create_logical_replication_slot('test', 'test_decoding', false, true),
    pg_create_logical_replication_slot('json', 'wal2json', false, true) \g /dev/null
select slot_name, two_phase from pg_replication_slots order by slot_name;
begin;
insert into entry values (1);
prepare transaction 'two phases';
\echo prepared
select 'test', data from pg_logical_slot_get_changes('test', null, null, 'include-xids', 'off');
select 'json', data from pg_logical_slot_get_changes('json', null, null);
insert into entry values (2);
\echo changes of others
select 'test', data from pg_logical_slot_get_changes('test', null, null, 'include-xids', 'off');
select 'json', data from pg_logical_slot_get_changes('json', null, null);
commit prepared 'two phases';
\echo committed
select 'test', data from pg_logical_slot_get_changes('test', null, null, 'include-xids', 'off');
select 'json', data from pg_logical_slot_get_changes('json', null, null);
END
diff -u - "$dir/seen" <<'END'
json|t
test|t
prepared
test|BEGIN
test|table public.entry: INSERT: id[integer]:1
test|PREPARE TRANSACTION 'two phases'
changes of others
test|BEGIN
test|table public.entry: INSERT: id[integer]:2
test|COMMIT
json|{"change":[{"kind":"insert","schema":"public","table":"entry","columnnames":["id"],"columntypes":["integer"],"columnvalues":[2]}]}
committed
test|COMMIT PREPARED 'two phases'
json|{"change":[{"kind":"insert","schema":"public","table":"entry","columnnames":["id"],"columntypes":["integer"],"columnvalues":[1]}]}
END
echo "as described"
