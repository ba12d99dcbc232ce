#!/usr/bin/env bash
# PostgreSQL 17.12, native subscription against pglogical 2.4.5: what AFTER UPDATE OF column means to an apply worker
#
# Seen with PostgreSQL 17.12 and pglogical 2.4.5-1 (Debian trixie); the same with 18.6 and pglogical 2.4.8 (sid).
# The native half is the same in 15.20.
#
# Three row triggers, enabled ALWAYS, sit on the subscriber: AFTER UPDATE, AFTER UPDATE OF due, AFTER UPDATE OF note.
# The publisher changes first only "state", then only "due", then only "note" (long enough to be stored out of line).
# - A native subscription fires UPDATE OF due for all three changes, also where "due" was not named and is the same:
#   every column that was sent counts as named. UPDATE OF note fires for the last change only, for an unchanged value
#   that is stored out of line is not sent. So the length of a value decides whether its trigger fires.
# - pglogical fires neither for any change, not even when exactly that column was changed. AFTER UPDATE does fire.
# The same triggers on the publisher fire once each. A capture that saves work by UPDATE OF is silently dead
# under pglogical.
#
# Wrong guess: an apply worker compares the values or knows the columns, so each trigger fires once under both.
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
    sql "$database" <<'END'
create table entry (id int primary key, due date, state text, note text);
alter table entry alter note set storage external;
create table fired (n serial, name text, state text, due date, note text);
create function fire() returns trigger language plpgsql as $$begin
    insert into public.fired (name, state, due, note) values (tg_name, new.state, new.due, left(new.note, 1));
    return null;
end$$;
create trigger any_column after update on entry for each row execute function fire();
create trigger only_due after update of due on entry for each row execute function fire();
create trigger only_note after update of note on entry for each row execute function fire();
alter table entry enable always trigger any_column;
alter table entry enable always trigger only_due;
alter table entry enable always trigger only_note;
END
done
sql provider <<'END' >/dev/null
create extension pglogical;
select pglogical.create_node('provider', 'host=/tmp user=postgres dbname=provider');
select pglogical.replication_set_add_table('default', 'entry');
create publication entry for table entry;
select pg_create_logical_replication_slot('native', 'pgoutput');
END
sql native <<<"create subscription native connection 'host=/tmp user=postgres dbname=provider' publication entry
    with (create_slot = false, slot_name = native, copy_data = false)"
sql pglogical <<'END' >/dev/null
create extension pglogical;
select pglogical.create_node('subscriber', 'host=/tmp user=postgres dbname=pglogical');
select pglogical.create_subscription('subscription', 'host=/tmp user=postgres dbname=provider', '{default}', false,
    false);
END
await pglogical "select status = 'replicating' from pglogical.show_subscription_status()"

sql provider <<'END'
insert into entry values (1, '2026-01-01', 'new', repeat('x', 9000));
update entry set state = 'old';
update entry set due = '2026-02-02';
update entry set note = repeat('y', 9000);
END
{
    for database in provider native pglogical; do
        await "$database" "select exists (select from entry where note like 'y%')"
        echo "$database"
        sql "$database" <<<"select state, due, note, string_agg(name, ' ' order by name) from fired
            group by 1, 2, 3 order by min(n)"
    done
} >"$dir/seen"
diff -u - "$dir/seen" <<'END'
provider
old|2026-01-01|x|any_column
old|2026-02-02|x|any_column only_due
old|2026-02-02|y|any_column only_note
native
old|2026-01-01|x|any_column only_due
old|2026-02-02|x|any_column only_due
old|2026-02-02|y|any_column only_due only_note
pglogical
old|2026-01-01|x|any_column
old|2026-02-02|x|any_column
old|2026-02-02|y|any_column
END
echo "as described"
