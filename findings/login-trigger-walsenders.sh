#!/usr/bin/env bash
# PostgreSQL 17.12: a login event trigger also runs for the connections of subscriptions, and its rows are published
#
# Seen with PostgreSQL 17.12 (Debian trixie).
#
# An event trigger ON login keeps a table of logins. Setting up one subscription to three tables makes rows in it,
# all by walsenders: CREATE SUBSCRIPTION itself, the apply worker, and one for the first copy of each table.
# The trigger runs and writes in these sessions like in any other, though they speak the replication protocol. If the
# publication is FOR ALL TABLES, the apply worker receives the row of its own login as the first change: each of its
# restarts is a change that it replicates. pg_receivewal, which has no database, leaves no row.
# An exception in the trigger, meant to keep clients out, keeps the subscription out too, by way of the
# subscriber's log.
#
# Wrong guess: login means a client's session, and a walsender can neither run PL/pgSQL nor write.
set -euo pipefail

suite=trixie
major=17
packages=(postgresql-17=17.12-0+deb13u1)
settings="wal_level = logical"
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

sql <<'END'
create database publisher;
create database subscriber;
END
for database in publisher subscriber; do
    sql "$database" <<<"create table a (id int primary key); create table b (id int primary key);
        create table logins (id uuid primary key, name text, type text)"
done
sql publisher <<'END'
create publication everything for all tables;
create function note_login() returns event_trigger language plpgsql as $$
begin
    if current_setting('my.refuse', true) then raise exception 'no logins today'; end if;
    insert into public.logins select gen_random_uuid(), application_name, backend_type from pg_stat_activity
        where pid = pg_backend_pid() and application_name <> 'psql';
end $$;
create event trigger note_login on login execute function note_login();
END
sql publisher <<<"select pg_create_logical_replication_slot('everything', 'pgoutput')" >/dev/null
sql subscriber <<'END'
create subscription everything connection 'host=/tmp user=postgres dbname=publisher' publication everything
    with (create_slot = false);
END
await subscriber "select count(*) = 3 and bool_and(srsubstate = 'r') from pg_subscription_rel"
sql publisher <<<"insert into a values (1)"
await subscriber "select exists (select from a)"
run pg_receivewal -D /tmp --no-loop >/dev/null 2>&1 &
await postgres "select exists (select from pg_stat_replication where application_name = 'pg_receivewal')"

logins="select regexp_replace(name, 'pg_\d+_sync_.*', 'copy of a table'), type, count(*) from logins
    group by 1, 2 order by 1"
{
    echo publisher
    sql publisher <<<"$logins"
    # A new connection of the apply worker sends its own login.
    sql subscriber <<<"delete from logins"
    sql publisher <<<"select pg_terminate_backend(pid) from pg_stat_replication
        where application_name = 'everything'" >/dev/null
    await subscriber "select exists (select from logins)"
    echo "subscriber, after one more login of its apply worker"
    sql subscriber <<<"$logins"
    echo "subscriber, after an exception in the trigger"
    sql publisher <<<"alter database publisher set my.refuse = on"
    sql subscriber <<<"alter subscription everything disable"
    await subscriber "select count(*) = 0 from pg_stat_activity where backend_type = 'logical replication apply worker'"
    sql subscriber <<<"alter subscription everything enable"
    for _ in $(seq 300); do
        ! grep -o 'could not connect to the publisher.*' "$root/tmp/log" || break
        sleep 0.2
    done | sed 's/: .*FATAL/ ... FATAL/' | head -n 1
} >"$dir/seen"
diff -u - "$dir/seen" <<'END'
publisher
copy of a table|walsender|3
everything|walsender|2
subscriber, after one more login of its apply worker
everything|walsender|1
subscriber, after an exception in the trigger
could not connect to the publisher ... FATAL:  no logins today
END
echo "as described"
