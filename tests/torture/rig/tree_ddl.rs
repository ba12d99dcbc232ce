//! What comes and goes in a tree of partitions. As [`super::ddl`] has it for a table.

/// `{old}` stands for a statement on rows of the third day back, which is in no window.
pub const SCRIPTS: [&str; 21] = [
    "begin; truncate public.entries; {write}; commit",
    "truncate test.day1;; {write}",
    "begin; {write}; truncate test.day2; {write}; truncate test.day2; {write}; rollback",
    "begin; savepoint a; truncate test.day0; rollback to a; {write}; commit",
    "alter table public.entries alter host type varchar(5000) using left(host, 5);; {write};; {seal};;
     alter table public.entries alter host type text;; {write}",
    "begin; alter table public.entries rename host to host_; alter table public.entries rename method to host;
     alter table public.entries rename host_ to method; commit;; {write};; {write};;
     begin; alter table public.entries rename host to host_; alter table public.entries rename method to host;
     alter table public.entries rename host_ to method; commit",
    "begin; alter table public.entries drop column source; alter table public.entries add column source text; {write}; commit",
    "alter table test.day1 disable trigger busymate_stats_capture;; {write};; {leaf};; {seal};; {leaf};;
     alter table test.day1 enable always trigger busymate_stats_capture;; {write}",
    "begin; alter table public.entries disable trigger busymate_stats_capture; {write}; {write};
     alter table public.entries enable always trigger busymate_stats_capture; commit",
    "drop trigger busymate_stats_capture on public.entries;; {write};; {write};;
     select busymate_stats.detach(); select busymate_stats.attach('public.entries', 'public.devices');; {seal};; {write}",
    "vacuum full test.day1;; {write}",
    "{old};; drop table test.day3;; {write};; {seal};;
     create table test.day3 partition of public.entries for values from (test.day(3)) to (test.day(2));; {old};; {write};; {old}",
    "{old};; {seal};; {old};; drop table test.day3;; {seal};; {write};;
     create table test.day3 (like public.entries including all);;
     alter table public.entries attach partition test.day3 for values from (test.day(3)) to (test.day(2));; {old};; {seal};; {old}",
    "{old};; alter table public.entries detach partition test.day3;; {old};; {seal};; {old};;
     alter table public.entries attach partition test.day3 for values from (test.day(3)) to (test.day(2));; {old}",
    "{old};; alter table public.entries detach partition test.day3 concurrently;; {old};; {seal};; {old};;
     alter table public.entries attach partition test.day3 for values from (test.day(3)) to (test.day(2));; {old}",
    "begin; drop table test.day3;
     create table test.day3 partition of public.entries for values from (test.day(3)) to (test.day(2));
     {old}; {old}; truncate test.day3; {write}; commit;; {old}",
    "drop table test.day1;; {write};; {seal};;
     create table test.day1 partition of public.entries for values from (test.day(1)) to (test.day(0));; {write}",
    "alter table public.entries detach partition test.day0;; insert into test.day0 (created_at, host, owner)
         select test.day(0) + n * interval '1 min', 'day', n from generate_series(0, 9) n;; {seal};;
     alter table public.entries attach partition test.day0 for values from (test.day(0)) to (test.day(-1));; {write}",
    "begin; {old}; drop table test.day3; {write}; rollback;; {old}",
    "begin; drop table test.day3; savepoint a;
     create table test.day3 partition of public.entries for values from (test.day(3)) to (test.day(2));
     {old}; rollback to a; {write};
     create table test.day3 partition of public.entries for values from (test.day(3)) to (test.day(2)); commit;; {old}",
    "select busymate_stats.detach(); {write}; {write};
     select busymate_stats.attach('public.entries', 'public.devices');; {seal};; {write}",
];

/// Whether a script does something to the trigger that the parent has.
pub fn names_trigger_of_parent(script: &str) -> bool {
    ["entries disable trigger", "trigger busymate_stats_capture on public.entries"]
        .iter()
        .any(|part| script.contains(part))
}

/// Statements on the third day back.
pub const OLD: [&str; 5] = [
    "insert into test.day3 (id, created_at, host, source, owner)
     select nextval('test.ids'), test.day(3) + n * interval '1 hour', 'old', 'vpn', 0 from generate_series(1, 5) n",
    "insert into test.day3 (id, created_at, owner) values (nextval('test.ids'), test.day(3), 0)",
    "delete from test.day3 where created_at > test.day(3) + interval '3 hours'",
    "update test.day3 set created_at = created_at + interval '1 microsecond' where created_at < test.day(3) + interval '20 hours'",
    "delete from test.day3 where id % 2 = 0",
];

/// The leaves that statements name straight.
pub const LEAVES: [&str; 8] = [
    "test.early",
    "test.day3",
    "test.day2",
    "test.day1",
    "test.day0",
    "test.day0_even",
    "test.tomorrow",
    "test.future",
];
