#!/usr/bin/env bash
# PostgreSQL 18.6 with TimescaleDB 2.31.0: a hypertable's ENABLE ALWAYS trigger is an ordinary one on every later chunk
#
# Seen with PostgreSQL 18.6 and TimescaleDB 2.31.0 (Debian sid, Apache edition).
# TimescaleDB 2.19.3 (trixie, PostgreSQL 17.12) refuses: "hypertables do not support enabling or disabling triggers".
#
# ALTER TABLE ... ENABLE ALWAYS TRIGGER on a hypertable reaches the chunks that exist. A chunk that is made afterwards
# gets the trigger as enabled for the origin only (O rather than A). Rows that a replication role writes are then seen
# by the trigger in old chunks and missed in new ones: a capture of replicated rows works on the day it is set up and
# dies when the first chunk ends. DISABLE is lost the same way, and a trigger that was switched off comes back to life
# in the next chunk. PostgreSQL's own partitions take over both states.
#
# Wrong guess: a new chunk's trigger is in the state that the hypertable's has, as a new partition's is.
set -euo pipefail

suite=sid
major=18
packages=(postgresql-18=18.6-3 postgresql-18-timescaledb=2.31.0+dfsg-1)
settings="shared_preload_libraries = timescaledb
timescaledb.telemetry_level = off"
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
set client_min_messages = warning;
create extension timescaledb;
reset client_min_messages;
create table hyper (at timestamptz not null, state text);
create table native (at timestamptz not null, state text) partition by range (at);
create table native_jan partition of native for values from ('2026-01-01') to ('2026-02-01');
select table_name from create_hypertable('hyper', 'at', chunk_time_interval => interval '1 month');
create function tell() returns trigger language plpgsql as $$
begin
    raise notice '% tells of %', tg_name, new.state;
    return null;
end $$;
create trigger always after insert on hyper for each row execute function tell();
create trigger never after insert on hyper for each row execute function tell();
create trigger always after insert on native for each row execute function tell();
create trigger never after insert on native for each row execute function tell();
insert into hyper values ('2026-01-05', 'the first row');
alter table hyper enable always trigger always;
alter table hyper disable trigger never;
alter table native enable always trigger always;
alter table native disable trigger never;

\echo old chunk
insert into hyper values ('2026-01-05', 'a local row');
set session_replication_role = replica;
insert into hyper values ('2026-01-05', 'a replicated row');
reset session_replication_role;
\echo new chunk
insert into hyper values ('2026-06-05', 'a local row');
set session_replication_role = replica;
insert into hyper values ('2026-06-05', 'a replicated row');
reset session_replication_role;

create table native_june partition of native for values from ('2026-06-01') to ('2026-07-01');
select regexp_replace(tgrelid::regclass::text, '.*_(\d)_chunk', 'chunk \1'), tgname, tgenabled
    from pg_trigger where tgname in ('always', 'never') order by tgrelid, tgname;
END

diff -u - "$dir/seen" <<'END'
hyper
NOTICE:  always tells of the first row
NOTICE:  never tells of the first row
old chunk
NOTICE:  always tells of a local row
NOTICE:  always tells of a replicated row
new chunk
NOTICE:  always tells of a local row
NOTICE:  never tells of a local row
hyper|always|A
hyper|never|D
native|always|A
native|never|D
native_jan|always|A
native_jan|never|D
chunk 1|always|A
chunk 1|never|D
chunk 2|always|O
chunk 2|never|O
native_june|always|A
native_june|never|D
END
echo "as described"
