#!/usr/bin/env bash
# PostgreSQL 17.12 with pglogical 2.4.5: an UPDATE empties generated columns if a BEFORE trigger looks on
#
# Seen with PostgreSQL 17.12 and pglogical 2.4.5-1 (Debian trixie); the same with 18.6 and pglogical 2.4.8 (sid).
#
# A table has a stored generated column, and on the subscriber a BEFORE row trigger, enabled ALWAYS, that does no more
# than "return new". PL/pgSQL hands such a trigger NULL in the generated column, for the server computes it afterwards.
# For an UPDATE that pglogical's apply worker writes, nobody does: the row is stored with NULL in a column that is
# GENERATED ALWAYS, and a CHECK over it is content with that. An INSERT is right, so the value is there until the row
# changes for the first time, and then gone for good. Without the BEFORE trigger, under a native subscription with the
# same trigger, and for the subscriber's own updates the value is right.
#
# Wrong guess: a BEFORE trigger that returns its row unchanged changes nothing, under any apply worker.
set -euo pipefail

suite=trixie
major=17
packages=(postgresql-17=17.12-0+deb13u1 postgresql-17-pglogical=2.4.5-1)
settings="wal_level = logical
shared_preload_libraries = pglogical
output_plugin_libraries = 'pgoutput, test_decoding, pglogical_output'"
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
# Waits until a query gives t, a minute at most.
await() {
    for _ in $(seq 300); do
        [ "$(sql "$1" <<<"$2")" != t ] || return 0
        sleep 0.2
    done
    echo "never true: $2" >&2
    return 1
}

for database in provider native pglogical; do
    sql <<<"create database $database"
    sql "$database" <<'SQL'
create table bare (id int primary key, calls int, cost int generated always as (calls * 3) stored check (cost > 0));
create table usage (id int primary key, calls int, cost int generated always as (calls * 3) stored check (cost > 0));
create function pass() returns trigger language plpgsql as 'begin return new; end';
create trigger pass before insert or update on usage for each row execute function pass();
alter table usage enable always trigger pass;
SQL
done
sql provider <<'END' >/dev/null
create extension pglogical;
select pglogical.create_node('provider', 'host=/tmp user=postgres dbname=provider');
select pglogical.replication_set_add_table('default', name) from unnest('{bare,usage}'::text[]) name;
create publication usage for table bare, usage;
select pg_create_logical_replication_slot('native', 'pgoutput');
END
sql native <<<"create subscription native connection 'host=/tmp user=postgres dbname=provider' publication usage
    with (create_slot = false, slot_name = native, copy_data = false)"
sql pglogical <<'END' >/dev/null
create extension pglogical;
select pglogical.create_node('subscriber', 'host=/tmp user=postgres dbname=pglogical');
select pglogical.create_subscription('subscription', 'host=/tmp user=postgres dbname=provider', '{default}', false,
    false);
END
await pglogical "select status = 'replicating' from pglogical.show_subscription_status()"

sql provider <<'END'
insert into bare values (1, 10), (2, 20);
update bare set calls = 21 where id = 2;
insert into usage values (1, 10), (2, 20);
update usage set calls = 21 where id = 2;
END
sql pglogical <<<"insert into usage values (9, 90); update usage set calls = 91 where id = 9"
{
    for database in provider native pglogical; do
        await "$database" "select exists (select from usage where calls = 21)"
        echo "$database"
        sql "$database" <<<"select 'bare', id, calls, coalesce(cost::text, 'NULL') from bare
            union all select 'usage', id, calls, coalesce(cost::text, 'NULL') from usage order by 1, 2"
    done
} >"$dir/seen"
diff -u - "$dir/seen" <<'END'
provider
bare|1|10|30
bare|2|21|63
usage|1|10|30
usage|2|21|63
native
bare|1|10|30
bare|2|21|63
usage|1|10|30
usage|2|21|63
pglogical
bare|1|10|30
bare|2|21|63
usage|1|10|30
usage|2|21|NULL
usage|9|91|273
END
echo "as described"
