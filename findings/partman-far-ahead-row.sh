#!/usr/bin/env bash
# PostgreSQL 17.12 with pg_partman 5.2.4: one row from a month ahead, and the days in between never get a partition
#
# Seen with PostgreSQL 17.12 and pg_partman 5.2.4-1 (Debian trixie); the same with 18.6 and pg_partman 5.5.0 (sid).
#
# A device whose clock is 30 days ahead writes one row. It lands in the default partition, and partition_data_time, the
# documented way to empty that partition, makes a partition for its day. From then on run_maintenance counts from that
# partition: it makes "premake" partitions beyond it and none between today's and it. Raising premake makes more of
# them a month ahead, and nothing closes the gap. Every row of the coming four weeks goes to the default partition,
# run_maintenance raises no warning, and check_default is the only one to tell.
# Emptying the default partition is what does the harm: while the row lies there, maintenance goes on as before.
#
# Wrong guess: run_maintenance makes what is missing between now and now + premake, whatever lies further ahead.
set -euo pipefail

suite=trixie
major=17
packages=(postgresql-17=17.12-0+deb13u1 postgresql-17-partman=5.2.4-1)
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

sql >"$dir/seen" <<'END'
create schema partman;
create extension pg_partman schema partman;
create table entry (id int, created_at timestamptz not null) partition by range (created_at);
-- The day is taken once, so that midnight does no harm.
select current_date as today \gset
create view partitions as
    select relid::regclass::text as name, to_date(right(relid::text, 8), 'YYYYMMDD') - :'today'::date as ahead
    from (select relid::regclass from pg_partition_tree('entry') where isleaf) p where relid::text ~ '\d{8}$';
select partman.create_parent('public.entry', 'created_at', '1 day', p_premake := 2) \g /dev/null
\echo days that have a partition, counted from today
select string_agg(ahead::text, ' ' order by ahead) from partitions where ahead >= 0;

insert into entry values (0, :'today'), (1, :'today'::timestamptz + interval '30 days 12 hours');
update partman.part_config set premake = 3;
select partman.run_maintenance('public.entry') \g /dev/null
\echo the row in the default partition, premake = 3
select string_agg(ahead::text, ' ' order by ahead) from partitions where ahead >= 0;

\echo rows moved out of it
select partman.partition_data_time('public.entry');
update partman.part_config set premake = 5;
select partman.run_maintenance('public.entry') \g /dev/null
\echo premake = 5
select string_agg(ahead::text, ' ' order by ahead) from partitions where ahead >= 0;

insert into entry select 2, :'today'::timestamptz + n * interval '1 day' from generate_series(1, 29) n;
select partman.run_maintenance('public.entry') \g /dev/null
\echo a row a day until then: in the default partition
select count from partman.check_default(true);
END

diff -u - "$dir/seen" <<'END'
days that have a partition, counted from today
0 1 2
the row in the default partition, premake = 3
0 1 2 3
rows moved out of it
1
premake = 5
0 1 2 3 30 31 32 33 34 35
a row a day until then: in the default partition
26
END
echo "as described"
