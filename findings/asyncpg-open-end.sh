#!/usr/bin/env bash
# PostgreSQL 17.12 with asyncpg 0.32.0: the last microsecond of 9999 is infinity, and infinity has no time zone
#
# Seen with PostgreSQL 17.12 (Debian trixie) and asyncpg 0.32.0, psycopg 3.3.9 (PyPI) under Python 3.11.
#
# Rows that end some day have 9999-12-31 23:59:59.999999+00 or infinity as their end.
# - asyncpg reads both as the last datetime there is, but only the first one with a time zone. The second one comes
#   naive out of a timestamptz column, and sorting or comparing the column's values raises TypeError.
# - It writes either datetime as infinity. Reading the finite row and writing it back unchanged changes it: the row
#   leaves ranges, partitions and sums that have finite bounds, and its age and epoch become infinite.
# - Its ranges do the same: an upper bound of the last microsecond is stored as ",infinity)".
# psycopg reads the finite value, writes it as it is, and raises for infinity: one value fails in each of the two.
#
# Wrong guess: every value of a timestamptz column is aware, and a value that was read can be written back.
set -euo pipefail

suite=trixie
major=17
packages=(postgresql-17=17.12-0+deb13u1)
settings=
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

python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check asyncpg==0.32.0 'psycopg[binary]==3.3.9'
sql <<'END'
create table lease (id int primary key, ends timestamptz);
insert into lease values (1, '9999-12-31 23:59:59.999999+00'), (2, 'infinity');
END
cat >"$dir/client.py" <<'END'
import asyncio
import sys

import asyncpg
import psycopg

socket = sys.argv[1]


async def main():
    connection = await asyncpg.connect(host=socket, user="postgres", database="postgres")
    finite, infinite = [row["ends"] for row in await connection.fetch("select ends from lease order by id")]
    for name, value in ("finite", finite), ("infinite", infinite):
        print("asyncpg reads", name, value.replace(tzinfo=None), value.tzinfo)
    try:
        print(max(finite, infinite))
    except TypeError as error:
        print("max:", error)
    stored = await connection.fetchval("update lease set ends = $1 where id = 1 returning ends::text", finite)
    print("asyncpg writes the finite one back:", stored)
    bounds = asyncpg.Range(finite.replace(year=2026), finite)
    print("as the end of a range:", await connection.fetchval("select $1::tstzrange::text", bounds))
    await connection.close()

    with psycopg.connect(host=socket, user="postgres", dbname="postgres") as connection:
        print("psycopg writes it:", connection.execute("select %s::text", [finite]).fetchone()[0])
        try:
            print(connection.execute("select ends from lease where id = 2").fetchone())
        except psycopg.DataError as error:
            print("psycopg reads infinity:", error)


asyncio.run(main())
END
"$dir/venv/bin/python" "$dir/client.py" "$root/tmp" >"$dir/seen"
diff -u - "$dir/seen" <<'END'
asyncpg reads finite 9999-12-31 23:59:59.999999 UTC
asyncpg reads infinite 9999-12-31 23:59:59.999999 None
max: can't compare offset-naive and offset-aware datetimes
asyncpg writes the finite one back: infinity
as the end of a range: ["2026-12-31 23:59:59.999999+00",infinity)
psycopg writes it: 9999-12-31 23:59:59.999999+00
psycopg reads infinity: timestamp too large (after year 10K): 'infinity'
END
echo "as described"
