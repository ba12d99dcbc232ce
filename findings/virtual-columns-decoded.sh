#!/usr/bin/env bash
# PostgreSQL 18.6: to decoding plugins a virtual generated column is null, and with pgoutput it stops every UPDATE
#
# Seen with PostgreSQL 18.6, its test_decoding, wal2json 2.7-1 and decoderbufs 3.7.0 (Debian sid).
#
# A table has a virtual and a stored generated column, neither of which is ever null, and REPLICA IDENTITY FULL.
# - test_decoding and both formats of wal2json write "null" for the virtual column of a new row, as they would write
#   a real null; decoderbufs has "NOT SET".
# - In the old row of an UPDATE test_decoding and format 1 of wal2json leave the column out; format 2 has it, as null:
#   whether old and new rows have the same columns depends on the plugin.
# - pgoutput: as soon as any publication covers the table, FOR ALL TABLES included, UPDATE and DELETE on the publisher
#   raise "Replica identity must not contain unpublished generated columns". For a stored column there is the way out
#   of publish_generated_columns = stored; for a virtual one there is none but another replica identity.
#
# Wrong guess: virtual columns are left out everywhere, as they are not stored, and are nobody's concern in an old row.
set -euo pipefail

suite=sid
major=18
packages=(postgresql-18=18.6-3 postgresql-18-wal2json=2.7-1 postgresql-18-decoderbufs=3.7.0-1)
settings="wal_level = logical
output_plugin_libraries = 'pgoutput, test_decoding, wal2json, decoderbufs'"
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

sql <<'END' | grep -v '^INFO' >"$dir/seen"
create table usage (id int primary key, calls int not null,
    virtual int generated always as (calls * 2) virtual, stored int generated always as (calls * 3) stored);
alter table usage replica identity full;
set client_min_messages = warning;
select pg_create_logical_replication_slot(name, plugin) from (values ('test', 'test_decoding'), ('json_1', 'wal2json'),
    ('json_2', 'wal2json'), ('buffers', 'decoderbufs')) s (name, plugin) \g /dev/null
insert into usage values (1, 5);
update usage set calls = 6;
\echo query
table usage;
\echo test_decoding
select data from pg_logical_slot_get_changes('test', null, null, 'include-xids', 'off') where data ~ 'table';
\echo wal2json, format 1
select c->>'kind', c->'columnnames', c->'columnvalues', c->'oldkeys'->'keynames'
    from pg_logical_slot_get_changes('json_1', null, null), json_array_elements(data::json->'change') c;
\echo wal2json, format 2
select data::jsonb->>'action', c->>'name', c->'value', i->'value'
    from pg_logical_slot_get_changes('json_2', null, null, 'format-version', '2', 'include-transaction', 'off'),
    jsonb_array_elements(data::jsonb->'columns') c left join
    jsonb_array_elements(data::jsonb->'identity') i on i->>'name' = c->>'name';
\echo decoderbufs
select substring(data from '\[virtual\], column_type\[23\], (datum\[[^]]*\])')
    from pg_logical_slot_get_changes('buffers', null, null, 'debug-mode', '1') where data ~ 'virtual';
create publication everything for all tables with (publish_generated_columns = stored);
\set ON_ERROR_STOP off
\echo pgoutput
update usage set calls = 7;
delete from usage;
insert into usage values (2, 8);
alter table usage replica identity default;
update usage set calls = 9 where id = 2 returning *;
END
diff -u - "$dir/seen" <<'END'
query
1|6|12|18
test_decoding
table public.usage: INSERT: id[integer]:1 calls[integer]:5 virtual[integer]:null stored[integer]:15
table public.usage: UPDATE: old-key: id[integer]:1 calls[integer]:5 stored[integer]:15 new-tuple: id[integer]:1 calls[integer]:6 virtual[integer]:null stored[integer]:18
wal2json, format 1
insert|["id","calls","virtual","stored"]|[1,5,null,15]|
update|["id","calls","virtual","stored"]|[1,6,null,18]|["id","calls","stored"]
wal2json, format 2
I|id|1|
I|calls|5|
I|virtual|null|
I|stored|15|
U|id|1|1
U|calls|6|5
U|virtual|null|null
U|stored|18|15
decoderbufs
datum[!NOT SET!]
datum[!NOT SET!]
pgoutput
ERROR:  cannot update table "usage"
ERROR:  cannot delete from table "usage"
2|9|18|27
END
echo "as described"
