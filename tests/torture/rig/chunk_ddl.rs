//! What comes and goes in a hypertable. As [`super::ddl`] has it for a table.

/// `{old}` stands for a statement on rows of the third day back, which is in no window.
pub const SCRIPTS: [&str; 15] = [
    "begin; truncate public.entries; {write}; commit",
    "select test.on_chunk(test.day(1), 'truncate %s');; {write}",
    "begin; {write}; select test.on_chunk(test.day(2), 'truncate %s'); {write}; rollback",
    "{old};; select drop_chunks('public.entries', older_than => test.day(2));; {write};; {seal};; {old};; {old}",
    "{old};; {seal};; {old};; select drop_chunks('public.entries', older_than => test.day(2));; {seal};; {write};; {old}",
    "begin; {old}; select drop_chunks('public.entries', older_than => test.day(2)); {write}; rollback;; {old}",
    "begin; savepoint a; {old}; rollback to a; {old}; savepoint b; {old}; rollback to b; commit;; {old}",
    "select drop_chunks('public.entries', older_than => test.day(0));; {write};; {seal};; {write}",
    "select drop_chunks('public.entries', newer_than => test.day(-1));; {write};; {seal};; {write}",
    "insert into public.entries (created_at, host, owner) select test.day(-3) + n * interval '1 d', 'ahead', 0 from generate_series(1, 3) n;;
     {seal};; {write}",
    "insert into public.entries (created_at, host, owner) select test.day(40) - n * interval '1 d', 'backfill', 0 from generate_series(1, 3) n;;
     {seal};; {write};; {seal}",
    "alter table public.entries alter host type varchar(5000) using left(host, 5);; {write};; {seal};;
     alter table public.entries alter host type text;; {write}",
    "select test.on_chunk(test.day(1), 'alter table %s disable trigger busymate_stats_capture');; {write};; {seal};;
     update public.entries set host = 'unseen' where created_at >= test.day(1) and created_at < test.day(0) and id % 3 = 0;;
     select test.on_chunk(test.day(1), 'alter table %s enable always trigger busymate_stats_capture');; {write}",
    "select test.on_chunk(test.day(3), 'insert into %s (created_at, host, owner) select test.day(3), ''straight'', 0');; {old};; {seal}",
    "select busymate_stats.detach(); {write}; {write};
     select busymate_stats.attach('public.entries', 'public.devices');; {seal};; {write}",
];

/// Statements on the third day back.
pub const OLD: [&str; 4] = [
    "insert into public.entries (created_at, host, source, owner)
     select test.day(3) + n * interval '1 hour', 'old', 'vpn', 0 from generate_series(1, 5) n",
    "insert into public.entries (created_at, owner) values (test.day(3), 0)",
    "delete from public.entries where created_at > test.day(3) + interval '3 hours' and created_at < test.day(2)",
    "update public.entries set created_at = created_at + interval '1 microsecond'
      where created_at >= test.day(3) and created_at < test.day(3) + interval '20 hours'",
];
