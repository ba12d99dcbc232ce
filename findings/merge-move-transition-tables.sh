#!/usr/bin/env bash
# PostgreSQL 15.20: MERGE that moves a row to another partition leaves both transition tables of UPDATE empty
#
# Seen with PostgreSQL 15.20 (Debian bookworm), and the same with 17.12 and 18.6.
#
# An UPDATE that moves a row between partitions hands the statement triggers of UPDATE the old and the new row.
# MERGE ... WHEN MATCHED THEN UPDATE fires the same two triggers for the same move, but with empty transition tables.
# The move was written to the tables of DELETE and INSERT instead, whose triggers do not fire here: nobody ever sees it.
# If the same MERGE also has a DELETE and an INSERT action, the moved row shows up among the rows of those triggers.
# Whoever keeps counts with statement triggers loses moves by MERGE, or counts them as deletions and entries.
#
# Wrong guess: MERGE fills the transition tables of UPDATE as UPDATE does, in the worst case with the row's two halves
# in separate triggers that both fire.
set -euo pipefail

suite=bookworm
major=15
packages=(postgresql-15=15.20-0+deb12u1)
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
create table entry (id int, region int, state text) partition by list (region);
create table entry_1 partition of entry for values in (1);
create table entry_2 partition of entry for values in (2);
insert into entry values (1, 1, 'a'), (2, 1, 'b'), (3, 1, 'c');

create function tell() returns trigger language plpgsql as $$
begin
    raise notice '% %: %', tg_op, tg_argv[0], (select coalesce(string_agg(r::text, ' '), 'none') from rows r);
    return null;
end $$;
create trigger a after update on entry referencing old table as rows for each statement execute function tell('old');
create trigger b after update on entry referencing new table as rows for each statement execute function tell('new');
create trigger c after insert on entry referencing new table as rows for each statement execute function tell('new');
create trigger d after delete on entry referencing old table as rows for each statement execute function tell('old');

\echo UPDATE moves row 1
update entry set region = 2 where id = 1;
\echo MERGE moves row 2
merge into entry using (values (2)) v (id) on entry.id = v.id when matched then update set region = 2;
\echo MERGE changes row 2 where it is and moves row 3
merge into entry using (values (2), (3)) v (id) on entry.id = v.id
    when matched then update set region = 2, state = 'z';
\echo MERGE moves row 3 back, deletes row 1 and adds row 4
merge into entry using (values (1), (3), (4)) v (id) on entry.id = v.id
    when matched and entry.id = 3 then update set region = 1
    when matched then delete
    when not matched then insert values (4, 1, 'n');
END

diff -u - "$dir/seen" <<'END'
UPDATE moves row 1
NOTICE:  UPDATE old: (1,1,a)
NOTICE:  UPDATE new: (1,2,a)
MERGE moves row 2
NOTICE:  UPDATE old: none
NOTICE:  UPDATE new: none
MERGE changes row 2 where it is and moves row 3
NOTICE:  UPDATE old: (2,2,b)
NOTICE:  UPDATE new: (2,2,z)
MERGE moves row 3 back, deletes row 1 and adds row 4
NOTICE:  DELETE old: (1,2,a) (3,2,z)
NOTICE:  UPDATE old: none
NOTICE:  UPDATE new: none
NOTICE:  INSERT new: (3,1,z) (4,1,n)
END
echo "as described"
