#!/usr/bin/env bash
# PostgreSQL 17.12 with pglogical 2.4.5: the apply worker keeps its table statistics to itself until it exits
#
# Seen with PostgreSQL 17.12 and pglogical 2.4.5-1 (Debian trixie); the same with 18.6 and pglogical 2.4.8 (sid).
#
# 1000 rows arrive through pglogical and, beside it, through a native subscription. The native subscription's table has
# n_tup_ins = 1000 within seconds, and autovacuum analyzes it. The table that pglogical writes still has n_tup_ins = 0,
# n_live_tup = 0 and n_mod_since_analyze = 0 then, and autovacuum leaves it alone, however many rows come.
# All the counters appear at once when the worker exits (here: when the subscription is disabled), and only then
# does autovacuum come. A metric over pg_stat_user_tables is flat for weeks and then leaps.
#
# Wrong guess: the counters are late by some seconds, as those of any backend are.
set -euo pipefail

suite=trixie
major=17
packages=(postgresql-17=17.12-0+deb13u1 postgresql-17-pglogical=2.4.5-1)
settings="wal_level = logical
shared_preload_libraries = pglogical
output_plugin_libraries = 'pgoutput, test_decoding, pglogical_output'
autovacuum_naptime = 1s"
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
    sql "$database" <<<"create table entry (id int primary key)
        with (autovacuum_analyze_threshold = 100, autovacuum_analyze_scale_factor = 0)"
done
sql provider <<'END' >/dev/null
create extension pglogical;
select pglogical.create_node('provider', 'host=/tmp user=postgres dbname=provider');
select pglogical.replication_set_add_table('default', 'entry');
create publication entry for table entry;
select pg_create_logical_replication_slot('native', 'pgoutput');
END
sql pglogical <<'END' >/dev/null
create extension pglogical;
select pglogical.create_node('subscriber', 'host=/tmp user=postgres dbname=pglogical');
select pglogical.create_subscription('subscription', 'host=/tmp user=postgres dbname=provider', '{default}', false,
    false);
END
await pglogical "select status = 'replicating' from pglogical.show_subscription_status()"

sql provider <<<"insert into entry select generate_series(1, 1000)"
await pglogical "select count(*) = 1000 from entry"
# The native subscription begins only now, so that its counters are younger than the ones that are missing.
sql native <<<"create subscription native connection 'host=/tmp user=postgres dbname=provider' publication entry
    with (create_slot = false, slot_name = native, copy_data = false)"
await native "select count(*) = 1000 from entry"
await native "select last_autoanalyze is not null from pg_stat_user_tables where relname = 'entry'"
counters="select n_tup_ins, n_live_tup, last_autoanalyze is not null from pg_stat_user_tables where relname = 'entry'"
{
    echo "while the workers run: inserted, live, analyzed"
    for database in native pglogical; do echo "$database $(sql "$database" <<<"$counters")"; done
    sql pglogical <<<"select pglogical.alter_subscription_disable('subscription', true)" >/dev/null
    await pglogical "select last_autoanalyze is not null from pg_stat_user_tables where relname = 'entry'"
    echo "once pglogical's worker has exited"
    echo "pglogical $(sql pglogical <<<"$counters")"
} >"$dir/seen"
diff -u - "$dir/seen" <<'END'
while the workers run: inserted, live, analyzed
native 1000|1000|t
pglogical 0|0|f
once pglogical's worker has exited
pglogical 1000|1000|t
END
echo "as described"
