#!/usr/bin/env bash
# PostgreSQL 15.20: REFRESH MATERIALIZED VIEW CONCURRENTLY is decoded row by row, and what it removes has no key
#
# Seen with PostgreSQL 15.20 and wal2json 2.5 (Debian bookworm); the same with 17.12 and wal2json 2.6, 18.6 and 2.7.
#
# A materialized view counts entries. test_decoding and wal2json send its rows under its own name: all of them when it
# is made (in 15 only: 17 and 18 send none then), none at a plain REFRESH, and the difference at a CONCURRENTLY one.
# A view has no primary key, and its unique index, which CONCURRENTLY requires, is not its replica identity: the deletes
# come as "(no-tuple-data)" from test_decoding; wal2json drops them, with a WARNING each, but sends the inserts.
# A consumer that follows along keeps every count that the view has ever had. pgoutput sends nothing of all this.
# ALTER MATERIALIZED VIEW ... REPLICA IDENTITY FULL, which its manual page does not have, works, and cures the deletes.
#
# Wrong guess: materialized views are not decoded at all, and cannot have a replica identity.
set -euo pipefail

suite=bookworm
major=15
packages=(postgresql-15=15.20-0+deb12u1 postgresql-15-wal2json=2.5-1+b1)
settings="wal_level = logical
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
create table entry (id int primary key, state text);
insert into entry select n, 'state ' || n % 3 from generate_series(1, 9) n;
create publication everything for all tables;
select pg_create_logical_replication_slot(name, plugin) from (values ('test', 'test_decoding'), ('json', 'wal2json'),
    ('pgoutput', 'pgoutput')) s (name, plugin) \g /dev/null
create materialized view by_state as select state, count(*) from entry group by state;
create unique index on by_state (state);
refresh materialized view by_state;
update entry set state = 'state 1' where id = 9;
refresh materialized view concurrently by_state;
\echo test_decoding
select data from pg_logical_slot_get_changes('test', null, null, 'include-xids', 'off', 'skip-empty-xacts', 'on');
\echo wal2json
select c->>'kind', c->>'table', c->>'columnvalues', c->'oldkeys'
    from pg_logical_slot_get_changes('json', null, null), json_array_elements(data::json->'change') c;
\echo pgoutput: changes of tables, messages that name the view
select count(*) filter (where get_byte(data, 0) in (ascii('I'), ascii('U'), ascii('D'))),
    count(*) filter (where position('by_state'::bytea in data) > 0)
    from pg_logical_slot_get_binary_changes('pgoutput', null, null, 'proto_version', '1', 'publication_names', 'everything');
\echo with a replica identity
alter materialized view by_state replica identity full;
update entry set state = 'state 2' where id = 9;
refresh materialized view concurrently by_state;
select c->>'kind', c->>'table', c->>'columnvalues', c->'oldkeys'->'keyvalues'
    from pg_logical_slot_get_changes('json', null, null), json_array_elements(data::json->'change') c;
END
diff -u - "$dir/seen" <<'END'
test_decoding
BEGIN
table public.by_state: INSERT: state[text]:'state 1' count[bigint]:3
table public.by_state: INSERT: state[text]:'state 0' count[bigint]:3
table public.by_state: INSERT: state[text]:'state 2' count[bigint]:3
COMMIT
BEGIN
table public.entry: UPDATE: id[integer]:9 state[text]:'state 1'
COMMIT
BEGIN
table public.by_state: DELETE: (no-tuple-data)
table public.by_state: DELETE: (no-tuple-data)
table public.by_state: INSERT: state[text]:'state 1' count[bigint]:4
table public.by_state: INSERT: state[text]:'state 0' count[bigint]:2
COMMIT
wal2json
WARNING:  table "by_state" without primary key or replica identity is nothing
WARNING:  table "by_state" without primary key or replica identity is nothing
insert|by_state|["state 1",3]|
insert|by_state|["state 0",3]|
insert|by_state|["state 2",3]|
update|entry|[9,"state 1"]|{"keynames":["id"],"keytypes":["integer"],"keyvalues":[9]}
insert|by_state|["state 1",4]|
insert|by_state|["state 0",2]|
pgoutput: changes of tables, messages that name the view
1|0
with a replica identity
update|entry|[9,"state 2"]|[9]
delete|by_state||["state 2",3]
delete|by_state||["state 1",4]
insert|by_state|["state 1",3]|
insert|by_state|["state 2",4]|
END
echo "as described"
